//! The handshake, driven step by step over a stream.

use super::records::{HEADER, RECORD_WIRE_MAX};
use super::secrets::Secrets;
use crate::TlsError;
use bytes::{Buf, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes that may wait for the rest of a handshake message: rustls takes messages of up to
/// 64 KiB, in records of which the last may be whole.
const INCOMING_MAX: usize = 5 * RECORD_WIRE_MAX;
/// First size of the read buffer: a client's hello with its post-quantum share, or a server's whole
/// flight with a short chain.
const INCOMING_FIRST: usize = 4 * 1024;

/// A side of a handshake.
pub(super) trait Steps {
    type Data;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn has_to_write(&self) -> bool;
}

impl Steps for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_to_write(&self) -> bool {
        self.wants_write()
    }
}

impl Steps for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_to_write(&self) -> bool {
        self.wants_write()
    }
}

enum Step {
    Again,
    Write,
    Read,
    Done,
    Failed(TlsError),
}

/// What a handshake holds on to.
#[derive(Default)]
pub(super) struct Handshake {
    /// Bytes read. rustls gets whole records one by one, so that after the last record of the
    /// handshake nothing of what follows has been opened.
    pub(super) incoming: BytesMut,
    /// How much of `incoming` rustls has been shown.
    shown: usize,
    outgoing: Vec<u8>,
    pub(super) secrets: Secrets,
}

impl Handshake {
    pub(super) async fn run<S, C>(
        &mut self,
        stream: &mut S,
        connection: &mut C,
    ) -> Result<(), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        C: Steps,
    {
        loop {
            match self.step(connection) {
                Step::Again => {}
                Step::Write => self.write(stream).await?,
                Step::Read => self.read(stream).await?,
                Step::Done => return self.write(stream).await,
                Step::Failed(error) => {
                    self.farewell(connection);
                    // The peer may be gone: the failure is what counts.
                    drop(self.write(stream).await);
                    return Err(error);
                }
            }
        }
    }

    fn step<C: Steps>(&mut self, connection: &mut C) -> Step {
        let Self {
            incoming,
            shown,
            outgoing,
            secrets,
        } = self;
        let (discard, step) = secrets.during(|| {
            let status = connection.step(&mut incoming[..*shown]);
            let step = match status.state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    match encode(outgoing, |out| data.encode(out)) {
                        Ok(()) => Step::Again,
                        Err(error) => Step::Failed(error),
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Step::Write
                }
                Ok(ConnectionState::BlockedHandshake) => Step::Read,
                Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    Step::Failed(TlsError::Closed)
                }
                Ok(other) => Step::Failed(TlsError::Handshake(format!("{other:?} in it"))),
                Err(error) => Step::Failed(TlsError::of_rustls(&error)),
            };
            (status.discard, step)
        });
        incoming.advance(discard);
        *shown -= discard;
        step
    }

    /// Takes the alert that tells the peer why. rustls must see the same bytes as before: it
    /// remembers where in them the messages are that it has not come to. It does not come to them
    /// as long as it has something to say.
    fn farewell<C: Steps>(&mut self, connection: &mut C) {
        while connection.has_to_write() {
            let status = connection.step(&mut self.incoming[..self.shown]);
            let discard = status.discard;
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                return;
            };
            let encoded = encode(&mut self.outgoing, |out| data.encode(out));
            self.incoming.advance(discard);
            self.shown -= discard;
            if encoded.is_err() {
                return;
            }
        }
    }

    async fn write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Result<(), TlsError> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let sent = stream.write_all(&self.outgoing).await;
        self.outgoing.clear();
        sent.map_err(TlsError::of_io)?;
        stream.flush().await.map_err(TlsError::of_io)
    }

    /// Shows rustls one more record, reading on until there is one.
    async fn read<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), TlsError> {
        loop {
            if let Some(length) = next_record(&self.incoming[self.shown..]) {
                self.shown += length;
                return Ok(());
            }
            if self.incoming.len() >= INCOMING_MAX {
                return Err(TlsError::Handshake("a message over 64 KiB".into()));
            }
            self.incoming.reserve(INCOMING_FIRST);
            match stream.read_buf(&mut self.incoming).await {
                Ok(0) => return Err(TlsError::Closed),
                Ok(_) => {}
                Err(error) => return Err(TlsError::of_io(error)),
            }
        }
    }
}

/// The length of the record at the head of `bytes` once it is whole; of bytes that cannot be one,
/// all, for rustls to say what is wrong.
fn next_record(bytes: &[u8]) -> Option<usize> {
    let (&[kind, major, _, high, low], _) = bytes.split_first_chunk::<HEADER>()?;
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&kind) || major != 3 || length > RECORD_WIRE_MAX {
        return Some(bytes.len());
    }
    (bytes.len() >= length).then_some(length)
}

/// Appends what an encoder writes, growing to what it asks for.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encoder: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsError> {
    let before = outgoing.len();
    let failed = |e: EncodeError| TlsError::Handshake(e.to_string());
    let written = match encoder(&mut []) {
        Ok(written) => written,
        Err(EncodeError::InsufficientSize(size)) => {
            outgoing.resize(before + size.required_size, 0);
            encoder(&mut outgoing[before..]).map_err(failed)?
        }
        Err(other) => return Err(failed(other)),
    };
    outgoing.truncate(before + written);
    Ok(())
}
