//! Origins that speak plain bytes or lines: TCP echo and SMTP.

use super::{bind, serve_each};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Size of the echo's buffer.
const ECHO_BUFFER_BYTES: usize = 16 * 1024;
/// Longest line taken (RFC 5321, 4.5.3.1.6: 1000 with its end).
const LINE_BYTES_MAX: u64 = 1000;
/// Most lines of a session.
const LINES_MAX: usize = 10_000;

/// How the TCP echo behaves.
#[derive(Debug, Clone, Default)]
pub struct TcpOptions {
    /// Written once before the first byte of the echo; empty: nothing.
    pub greeting: String,
}

/// Gives every byte back. When the client ends its bytes, the echo ends its own after the last:
/// each way ends by itself.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_tcp_echo(address: SocketAddr, options: TcpOptions) -> io::Result<()> {
    serve_tcp_echo_on(bind(address)?, options).await
}

/// As [`serve_tcp_echo`], on a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve_tcp_echo_on(listener: TcpListener, options: TcpOptions) -> io::Result<()> {
    serve_each(listener, "origin-tcp", move |stream, _| {
        echo(stream, options.greeting.clone())
    })
    .await
}

async fn echo(mut stream: TcpStream, greeting: String) -> io::Result<()> {
    stream.write_all(greeting.as_bytes()).await?;
    let mut buffer = vec![0; ECHO_BUFFER_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        let read = buffer.get(..count).unwrap_or_default();
        stream.write_all(read).await?;
    }
}

/// How the SMTP server behaves.
#[derive(Debug, Clone)]
pub struct SmtpOptions {
    /// The host name it greets with.
    pub name: String,
}

/// Speaks SMTP: greets first, then answers line by line.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_smtp(address: SocketAddr, options: SmtpOptions) -> io::Result<()> {
    serve_smtp_on(bind(address)?, options).await
}

/// As [`serve_smtp`], on a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve_smtp_on(listener: TcpListener, options: SmtpOptions) -> io::Result<()> {
    serve_each(listener, "origin-smtp", move |stream, _| {
        smtp(stream, options.name.clone())
    })
    .await
}

async fn smtp(mut stream: TcpStream, name: String) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    write
        .write_all(format!("220 {name} ESMTP strata\r\n").as_bytes())
        .await?;
    let mut in_data = false;
    for _ in 0..LINES_MAX {
        let Some(line) = next_line(&mut read).await? else {
            return write.shutdown().await;
        };
        if in_data {
            if line == "." {
                in_data = false;
                write.write_all(b"250 2.0.0 queued\r\n").await?;
            }
            continue;
        }
        let verb = line.split(' ').next().unwrap_or_default();
        let reply = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => format!("250-{name}\r\n250 8BITMIME\r\n"),
            "HELO" => format!("250 {name}\r\n"),
            "MAIL" | "RCPT" | "RSET" | "NOOP" => "250 2.0.0 ok\r\n".into(),
            "DATA" => {
                in_data = true;
                "354 end with a line that holds a dot\r\n".into()
            }
            "QUIT" => "221 2.0.0 bye\r\n".into(),
            _ => "502 5.5.1 not implemented\r\n".to_owned(),
        };
        write.write_all(reply.as_bytes()).await?;
        if verb.eq_ignore_ascii_case("QUIT") {
            return write.shutdown().await;
        }
    }
    write.write_all(b"421 4.7.0 too many lines\r\n").await?;
    write.shutdown().await
}

/// A line without its end; `None` at the end of the bytes.
pub(super) async fn next_line<R>(read: &mut BufReader<R>) -> io::Result<Option<String>>
where
    R: AsyncRead + Unpin,
{
    let mut line = Vec::new();
    let count = (&mut *read)
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .await?;
    if count == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() && line.len() as u64 == LINE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
    }
    line.pop_if(|last| *last == b'\r');
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
