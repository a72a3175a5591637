//! The proxy's end of the socket.

use crate::message::{Hello, decode_request, encode_ack, encode_hello};
use crate::{Ack, MESSAGE_BYTES_MAX, MessageError, Request};
use mesh_net::{DatagramError, Netns, SeqPacket};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// How long one message may take to be sent; the agent gives us as long.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the node agent.
#[derive(Debug)]
pub struct AgentConnection {
    socket: SeqPacket,
}

/// Why no request came, or none that makes sense.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed, or a message was cut short.
    #[error(transparent)]
    Datagram(#[from] DatagramError),
    /// A message was not understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The descriptor beside an Add cannot be read.
    #[error("network namespace: {0}")]
    Netns(#[source] io::Error),
}

impl AgentConnection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When no agent listens there.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let connection = Self {
            socket: SeqPacket::connect(path)?,
        };
        connection.send(&encode_hello(Hello)).await?;
        Ok(connection)
    }

    /// The next request; none when the agent has closed. The future may be dropped without losing
    /// one. After an error only [`Self::answer`] makes sense.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub async fn next(&self) -> Result<Option<Request<Netns>>, ConnectionError> {
        let Some(datagram) = self.socket.receive(MESSAGE_BYTES_MAX).await? else {
            return Ok(None);
        };
        Ok(Some(
            match decode_request(&datagram.bytes, datagram.descriptors)? {
                Request::Add(pod, fd) => {
                    let netns = Netns::from_fd(fd).map_err(ConnectionError::Netns)?;
                    Request::Add(pod, netns)
                }
                Request::Keep(uid) => Request::Keep(uid),
                Request::Del(uid) => Request::Del(uid),
                Request::SnapshotSent => Request::SnapshotSent,
            },
        ))
    }

    /// Answers the request.
    ///
    /// # Errors
    /// When the agent is gone.
    pub async fn answer(&self, ack: &Ack) -> io::Result<()> {
        self.send(&encode_ack(ack)).await
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        timeout(SEND_TIMEOUT, self.socket.send(bytes, &[]))
            .await
            .map_err(|_| io::Error::new(ErrorKind::TimedOut, "the agent does not read"))?
    }
}
