//! One question to a proxy's DNS listener, and the addresses in its answer.

use anyhow::{Result, bail, ensure};
use mesh_lab::Place;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

/// Where proxies answer, on the loopback of a pod.
const DNS_PORT: u16 = 15053;
/// How long an answer may take.
const WAIT: Duration = Duration::from_secs(5);
/// Record types A and AAAA (RFC 1035, RFC 3596).
const A: u16 = 1;
const AAAA: u16 = 28;

/// Asks for the addresses of a name of one family, as an application of the pod would.
pub(crate) fn resolve(place: &Place, name: &str, v6: bool) -> Result<Vec<IpAddr>> {
    let kind = if v6 { AAAA } else { A };
    let socket = place.enter(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
    socket.set_read_timeout(Some(WAIT))?;
    let question = question(name, kind)?;
    socket.send_to(&question, (Ipv4Addr::LOCALHOST, DNS_PORT))?;
    let mut answer = [0; 4096];
    let count = socket.recv(&mut answer)?;
    let answer = &answer[..count];
    ensure!(answer.starts_with(&question[..2]), "another id");
    addresses(answer, kind, question.len())
}

fn question(name: &str, kind: u16) -> Result<Vec<u8>> {
    // One question, recursion desired.
    let mut message = vec![0x5a, 0x17, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len())?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    Ok(message)
}

/// The records of the answer section; it follows the question, which comes back as it was.
fn addresses(message: &[u8], kind: u16, mut at: usize) -> Result<Vec<IpAddr>> {
    let u16_at = |at: usize| match message.get(at..at + 2) {
        Some(two) => Ok(u16::from_be_bytes([two[0], two[1]])),
        None => bail!("the answer ends early"),
    };
    let code = u16_at(2)? & 0xf;
    ensure!(code == 0, "response code {code}");
    let mut found = Vec::new();
    for _ in 0..u16_at(6)? {
        // The owner: labels, ended by an empty one or by a pointer.
        loop {
            let length = usize::from(u16_at(at)? >> 8);
            at += match length {
                0 => 1,
                0xc0.. => 2,
                _ => 1 + length,
            };
            if length == 0 || length >= 0xc0 {
                break;
            }
        }
        let length = usize::from(u16_at(at + 8)?);
        let data = message.get(at + 10..at + 10 + length).unwrap_or_default();
        if u16_at(at)? == kind {
            match <[u8; 4]>::try_from(data) {
                Ok(v4) => found.push(IpAddr::from(v4)),
                Err(_) => found.push(IpAddr::from(<[u8; 16]>::try_from(data)?)),
            }
        }
        at += 10 + length;
    }
    Ok(found)
}
