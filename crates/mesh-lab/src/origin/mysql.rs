//! An origin that greets as a MySQL server does: the server speaks first, in binary.

use super::{bind, serve_each};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest login packet read.
const PACKET_BYTES_MAX: usize = 64 * 1024;
/// Protocol 4.1, secure connection, plugin auth: enough for a client to go on.
const CAPABILITIES: u32 = 0x0008_8200;
/// `Access denied`, the MySQL error number and its SQL state.
const ACCESS_DENIED: (u16, &str) = (1045, "28000");

/// How the MySQL server behaves.
#[derive(Debug, Clone)]
pub struct MysqlOptions {
    /// Its version text, such as `8.4.0-reviews-db`.
    pub version: String,
}

/// Sends a handshake packet (protocol version 10), reads the login, and refuses it politely.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_mysql(address: SocketAddr, options: MysqlOptions) -> io::Result<()> {
    serve_mysql_on(bind(address)?, options).await
}

/// As [`serve_mysql`], on a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve_mysql_on(listener: TcpListener, options: MysqlOptions) -> io::Result<()> {
    serve_each(listener, "origin-mysql", move |stream, _| {
        greet(stream, options.version.clone())
    })
    .await
}

async fn greet(mut stream: TcpStream, version: String) -> io::Result<()> {
    stream.write_all(&packet(0, &handshake(&version))).await?;
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        // A probe that only wanted the greeting leaves here.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    }
    let [low, middle, high, sequence] = head;
    let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
    if length > PACKET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "login too long"));
    }
    stream.read_exact(&mut vec![0; length]).await?;
    stream
        .write_all(&packet(sequence.wrapping_add(1), &refusal()))
        .await?;
    stream.shutdown().await
}

/// A packet: length in three bytes, sequence number, payload.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let mut packet = length.to_vec();
    packet.truncate(3);
    packet.push(sequence);
    packet.extend_from_slice(payload);
    packet
}

fn handshake(version: &str) -> Vec<u8> {
    let [first, second, third, fourth] = CAPABILITIES.to_le_bytes();
    let mut payload = vec![10];
    payload.extend_from_slice(version.replace('\0', "").as_bytes());
    payload.push(0);
    payload.extend_from_slice(&1_u32.to_le_bytes()); // connection id
    payload.extend_from_slice(b"strata-8"); // challenge, first 8 bytes
    payload.push(0);
    payload.extend_from_slice(&[first, second]);
    payload.push(45); // utf8mb4
    payload.extend_from_slice(&2_u16.to_le_bytes()); // autocommit
    payload.extend_from_slice(&[third, fourth]);
    payload.push(21); // length of the challenge
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(b"challenge-12\0");
    payload.extend_from_slice(b"mysql_native_password\0");
    payload
}

fn refusal() -> Vec<u8> {
    let (number, state) = ACCESS_DENIED;
    let mut payload = vec![0xff];
    payload.extend_from_slice(&number.to_le_bytes());
    payload.push(b'#');
    payload.extend_from_slice(state.as_bytes());
    payload.extend_from_slice(b"Access denied: this server has no users");
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_is_a_protocol_10_packet() {
        let greeting = packet(0, &handshake("8.4.0-db"));
        assert_eq!(usize::from(greeting[0]), greeting.len() - 4);
        assert_eq!(greeting[3], 0);
        assert_eq!(greeting[4], 10);
        assert!(greeting[5..].starts_with(b"8.4.0-db\0"));
        assert!(greeting.ends_with(b"mysql_native_password\0"));
    }
}
