//! Whatever a peer sends, the server ends the connection or serves it, and never waits for ever.

use super::*;
use crate::KeepAlive;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

/// Gives a server some bytes and then silence; returns how it ended.
fn served(bytes: &[u8], close: bool) -> Result<(), TunnelError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let scope = Scope::new();
        let (mut near, far) = duplex(1 << 20);
        near.write_all(bytes).await.unwrap();
        if close {
            near.shutdown().await.unwrap();
        }
        let settings = ServerSettings {
            keep_alive: KeepAlive::default(),
            ..ServerSettings::default()
        };
        let answer = |incoming: Incoming| async move {
            drop(incoming.accept(&HeaderMap::new()));
        };
        let ended = serve(far, &settings, &Drain::new(), &scope, answer).await;
        scope.cancel();
        ended
    })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    // Types 0 to 9 are known, 10 and 11 are not; streams 0 to 7.
    (0..12_u8, any::<u8>(), 0..8_u8, payload).prop_map(|(kind, flags, stream, payload)| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], &payload].concat()
    })
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_end_the_connection(bytes in prop::collection::vec(any::<u8>(), 0..200), close: bool) {
        prop_assert!(served(&bytes, close).is_err());
    }

    #[test]
    fn any_frames_end_the_connection(
        frames in prop::collection::vec(frame(), 0..12),
        cut in 0..40_usize,
        close: bool,
    ) {
        let mut bytes = [PREFACE, SETTINGS, &frames.concat()].concat();
        bytes.truncate(bytes.len().saturating_sub(cut).max(PREFACE.len()));
        // How does not matter, a peer may also have said GOAWAY; that it ends does.
        drop(served(&bytes, close));
    }
}
