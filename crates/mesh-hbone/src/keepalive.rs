//! HTTP/2 PING keep-alive, the same for both roles.

use crate::KeepAlive;
use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Pings until an answer fails to come in time; then returns. Never returns when the connection
/// ends by itself: whoever drives the connection sees that first.
pub(crate) async fn until_silent(ping: Option<PingPong>, settings: KeepAlive) {
    let Some(mut ping) = ping else {
        return std::future::pending().await;
    };
    loop {
        sleep(settings.interval).await;
        match timeout(settings.timeout, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
