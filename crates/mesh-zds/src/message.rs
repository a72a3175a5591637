//! The messages, typed, and their bytes.

use mesh_model::WorkloadInfo;
use mesh_proto::zds;
use prost::Message as _;

/// Longest message: both sides read with a buffer of this size, and one that does not fit is an error.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Longest error text sent in an acknowledgement; what is longer is cut.
pub const ERROR_BYTES_MAX: usize = 512;

/// A pod as the agent describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Kubernetes' uid of the pod, or any text that is unique on the node; never empty.
    pub uid: String,
    /// Which workload it is.
    pub info: WorkloadInfo,
}

/// What the agent asks of the proxy. `N` is the pod's network namespace in whatever form it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<N> {
    /// This pod runs; carry its traffic.
    Add(Pod, N),
    /// This pod stays if the proxy has it: the agent does not have its namespace at hand.
    Keep(String),
    /// This pod is gone.
    Del(String),
    /// Every pod was told: what runs and was not told is to end.
    SnapshotSent,
}

/// The proxy's answer to one request: the error text, or success.
pub type Ack = Result<(), String>;

/// The proxy's first message; there is one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello;

/// Why a message was not understood or cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the protobuf message that was expected.
    #[error("not a message: {0}")]
    Malformed(String),
    /// A message without payload, or one of a later version.
    #[error("a message without a payload we know")]
    Empty,
    /// A version other than 1.
    #[error("version {0} is not spoken here")]
    Version(i32),
    /// An Add without exactly one descriptor, or another message with one.
    #[error("{got} descriptors beside {message}, not {wanted}")]
    Descriptors {
        /// Which message.
        message: &'static str,
        /// How many came.
        got: usize,
        /// How many belong there.
        wanted: usize,
    },
    /// A field that must be there is not, or makes no sense.
    #[error("{0}")]
    Field(String),
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
}

/// The bytes of a hello.
pub fn encode_hello(Hello: Hello) -> Vec<u8> {
    let version = zds::Version::V1.into();
    zds::ZdsHello { version }.encode_to_vec()
}

/// Reads a hello.
///
/// # Errors
/// When it is none, or of another version.
pub fn decode_hello(bytes: &[u8]) -> Result<Hello, MessageError> {
    let hello = zds::ZdsHello::decode(bytes).map_err(malformed)?;
    if hello.version == i32::from(zds::Version::V1) {
        Ok(Hello)
    } else {
        Err(MessageError::Version(hello.version))
    }
}

/// The bytes of a request; an Add's namespace goes beside them.
///
/// # Errors
/// [`MessageError::TooLong`].
pub fn encode_request<N>(request: &Request<N>) -> Result<Vec<u8>, MessageError> {
    use zds::workload_request::Payload;
    let payload = match request {
        Request::Add(pod, _) => Payload::Add(zds::AddWorkload {
            uid: pod.uid.clone(),
            workload_info: Some(zds::WorkloadInfo {
                name: pod.info.name.to_string(),
                namespace: pod.info.namespace.to_string(),
                service_account: pod.info.service_account.to_string(),
            }),
        }),
        Request::Keep(uid) => Payload::Keep(zds::KeepWorkload { uid: uid.clone() }),
        Request::Del(uid) => Payload::Del(zds::DelWorkload { uid: uid.clone() }),
        Request::SnapshotSent => Payload::SnapshotSent(zds::SnapshotSent {}),
    };
    let payload = Some(payload);
    let bytes = zds::WorkloadRequest { payload }.encode_to_vec();
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// Reads a request and takes the descriptors that came beside it.
///
/// # Errors
/// When it is malformed, or has not the descriptors that belong there.
pub fn decode_request<F>(bytes: &[u8], descriptors: Vec<F>) -> Result<Request<F>, MessageError> {
    use zds::workload_request::Payload;
    let request = zds::WorkloadRequest::decode(bytes).map_err(malformed)?;
    let got = descriptors.len();
    let wrong = |message, wanted| MessageError::Descriptors {
        message,
        got,
        wanted,
    };
    let (message, request) = match request.payload.ok_or(MessageError::Empty)? {
        Payload::Add(add) => {
            let pod = pod(add)?;
            let [netns] = <[F; 1]>::try_from(descriptors).map_err(|_| wrong("Add", 1))?;
            return Ok(Request::Add(pod, netns));
        }
        Payload::Keep(keep) => ("Keep", Request::Keep(named(keep.uid)?)),
        Payload::Del(del) => ("Del", Request::Del(named(del.uid)?)),
        Payload::SnapshotSent(_) => ("SnapshotSent", Request::SnapshotSent),
    };
    if got > 0 {
        return Err(wrong(message, 0));
    }
    Ok(request)
}

fn pod(add: zds::AddWorkload) -> Result<Pod, MessageError> {
    let info = add
        .workload_info
        .ok_or_else(|| MessageError::Field("Add without workload_info".into()))?;
    let (namespace, name, account) = (info.namespace, info.name, info.service_account);
    let info = format!("{namespace}/{name}/{account}")
        .parse()
        .map_err(MessageError::Field)?;
    let uid = named(add.uid)?;
    Ok(Pod { uid, info })
}

fn named(uid: String) -> Result<String, MessageError> {
    if uid.is_empty() {
        return Err(MessageError::Field("a request without uid".into()));
    }
    Ok(uid)
}

/// The bytes of an acknowledgement.
pub fn encode_ack(ack: &Ack) -> Vec<u8> {
    use zds::workload_response::Payload;
    let mut error = ack.as_ref().err().cloned().unwrap_or_default();
    error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
    if ack.is_err() && error.is_empty() {
        error.push_str("failed");
    }
    let payload = Some(Payload::Ack(zds::Ack { error }));
    zds::WorkloadResponse { payload }.encode_to_vec()
}

/// Reads an acknowledgement.
///
/// # Errors
/// When it is none.
pub fn decode_ack(bytes: &[u8]) -> Result<Ack, MessageError> {
    use zds::workload_response::Payload;
    let response = zds::WorkloadResponse::decode(bytes).map_err(malformed)?;
    let Payload::Ack(zds::Ack { error }) = response.payload.ok_or(MessageError::Empty)?;
    Ok(if error.is_empty() { Ok(()) } else { Err(error) })
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn malformed(error: prost::DecodeError) -> MessageError {
    MessageError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add(uid: &str, info: &str) -> Request<u8> {
        let (uid, info) = (uid.into(), info.parse().unwrap());
        Request::Add(Pod { uid, info }, 9)
    }

    /// Written by hand from the table of interop/zds-cni.md: field numbers are the contract.
    #[test]
    fn the_bytes_are_those_of_the_contract() {
        assert_eq!(encode_hello(Hello), [0x08, 1]);
        let bytes = encode_request(&add("u", "n/p/s")).unwrap();
        let info = [0x0a, 1, b'p', 0x12, 1, b'n', 0x1a, 1, b's'];
        let mut wanted = vec![0x0a, 14, 0x0a, 1, b'u', 0x12, 9];
        wanted.extend(info);
        assert_eq!(bytes, wanted);
        let encoded = |request| encode_request::<u8>(&request).unwrap();
        assert_eq!(encoded(Request::Del("u".into())), [0x12, 3, 0x12, 1, b'u']);
        assert_eq!(encoded(Request::SnapshotSent), [0x1a, 0]);
        assert_eq!(encoded(Request::Keep("u".into())), [0x2a, 3, 0x0a, 1, b'u']);
        assert_eq!(encode_ack(&Ok(())), [0x0a, 0]);
        assert_eq!(encode_ack(&Err("e".into())), [0x0a, 3, 0x0a, 1, b'e']);
    }

    #[test]
    fn descriptors_belong_to_an_add_and_to_nothing_else() {
        let bytes = encode_request(&add("u", "n/p/s")).unwrap();
        assert_eq!(decode_request(&bytes, vec![9]), Ok(add("u", "n/p/s")));
        for wrong in [vec![], vec![1, 2]] {
            let error = decode_request(&bytes, wrong).unwrap_err();
            assert!(matches!(error, MessageError::Descriptors { wanted: 1, .. }));
        }
        for other in [
            Request::<u8>::Keep("u".into()),
            Request::Del("u".into()),
            Request::SnapshotSent,
        ] {
            let bytes = encode_request(&other).unwrap();
            assert_eq!(decode_request(&bytes, vec![]), Ok(other.clone()));
            assert!(decode_request(&bytes, vec![9_u8]).is_err(), "{other:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = zds::AddWorkload {
            uid: "u".into(),
            workload_info: None,
        };
        let payload = Some(zds::workload_request::Payload::Add(missing));
        let bytes = zds::WorkloadRequest { payload }.encode_to_vec();
        let error = decode_request(&bytes, vec![9]).unwrap_err();
        assert!(error.to_string().contains("workload_info"), "{error}");
        assert_eq!(decode_request::<u8>(&[], vec![]), Err(MessageError::Empty));
        assert_eq!(decode_hello(&[]), Err(MessageError::Version(0)));
        assert_eq!(decode_hello(&[8, 2]), Err(MessageError::Version(2)));
        assert!(decode_request::<u8>(&[0x12, 0], vec![]).is_err(), "no uid");
    }

    #[test]
    fn long_texts_are_cut_and_long_messages_not_sent() {
        let ack = Err("ü".repeat(ERROR_BYTES_MAX));
        let bytes = encode_ack(&ack);
        assert!(bytes.len() < MESSAGE_BYTES_MAX);
        assert!(decode_ack(&bytes).unwrap().unwrap_err().starts_with("üü"));
        let long = Request::<u8>::Del("u".repeat(MESSAGE_BYTES_MAX));
        assert!(matches!(
            encode_request(&long),
            Err(MessageError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn a_request_survives_its_bytes(uid in "[a-z0-9-]{1,40}", info in "[a-z]{1,9}/[a-z.-]{1,60}/[a-z]{1,9}", kind in 0..4) {
            let request = match kind {
                0 => add(&uid, &info),
                1 => Request::Keep(uid),
                2 => Request::Del(uid),
                _ => Request::SnapshotSent,
            };
            let beside = if kind == 0 { vec![9] } else { vec![] };
            let bytes = encode_request(&request).unwrap();
            prop_assert_eq!(decode_request(&bytes, beside), Ok(request));
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), fds in 0_usize..3) {
            if let Ok(request) = decode_request(&bytes, vec![(); fds]) {
                prop_assert_eq!(fds == 1, matches!(request, Request::Add(..)));
                prop_assert!(encode_request(&request).is_ok());
            }
            drop((decode_hello(&bytes), decode_ack(&bytes)));
        }
    }
}
