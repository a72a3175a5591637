//! What is tried, for one client and one server at a time.

use crate::apps::{
    ANYONE, BULK, BULK_BYTES, CUT, DENIED, ECHO, MIRROR, SERVER_FIRST, SERVER_FIRST_BYTES,
};
use crate::matrix::{Pair, Side};
use crate::mesh::{CUT_POLICY, DRAIN, Mesh, STRANGER, WEST_GATEWAY};
use crate::talk::{WAIT, ended, finish, from, ping, until};
use crate::{names, pattern, roots};
use anyhow::{Context, Result, bail, ensure};
use mesh_lab::client::{Outcome, Target, tcp_exchange, tcp_outcome};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long the bulk transfer may take.
const BULK_WAIT: Duration = Duration::from_secs(120);
/// How long both proxies may take to renew: half life is 15 s after the issue.
const ROTATION_WAIT: Duration = Duration::from_secs(60);
/// Connections held open at a time: twice what one tunnel carries.
const MANY: usize = 200;

/// A row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    PodV4,
    PodV6,
    ServiceV4,
    ServiceV6,
    Names,
    ClientEndsFirst,
    ServerEndsFirst,
    Bulk,
    Many,
    DeniedPort,
    DeniedIdentity,
    Plaintext,
    Outside,
    PolicyCut,
    WaypointServiceV4,
    WaypointServiceV6,
    WaypointPodV4,
    WaypointPodV6,
    Network,
    NetworkServerEnds,
    NetworkBulk,
    NetworkMany,
    NetworkDenied,
    Rotation,
    NewRoot,
    Drain,
    RestartServer,
    RestartClient,
}

/// In the order they are run: those that end proxies last.
pub(crate) const ROWS: &[Row] = &[
    Row::PodV4,
    Row::PodV6,
    Row::ServiceV4,
    Row::ServiceV6,
    Row::Names,
    Row::ClientEndsFirst,
    Row::ServerEndsFirst,
    Row::Bulk,
    Row::Many,
    Row::DeniedPort,
    Row::DeniedIdentity,
    Row::Plaintext,
    Row::Outside,
    Row::PolicyCut,
    Row::WaypointServiceV4,
    Row::WaypointServiceV6,
    Row::WaypointPodV4,
    Row::WaypointPodV6,
    Row::Network,
    Row::NetworkServerEnds,
    Row::NetworkBulk,
    Row::NetworkMany,
    Row::NetworkDenied,
    Row::Rotation,
    Row::NewRoot,
    Row::Drain,
    Row::RestartServer,
    Row::RestartClient,
];

impl Row {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PodV4 => "pod IPv4 to pod IPv4, source address kept",
            Self::PodV6 => "pod IPv6 to pod IPv6, source address kept",
            Self::ServiceV4 => "service VIP, IPv4",
            Self::ServiceV6 => "service VIP, IPv6",
            Self::Names => "names, asked of the client's proxy",
            Self::ClientEndsFirst => "half-close: client ends first",
            Self::ServerEndsFirst => "half-close: server ends first",
            Self::Bulk => "100 MiB each way at once, compared",
            Self::Many => "200 connections held at a time",
            Self::DeniedPort => "denied by DENY policy: no byte",
            Self::DeniedIdentity => "denied as another identity: no byte",
            Self::Plaintext => "plaintext under STRICT: no byte",
            Self::Outside => "client to outside the mesh",
            Self::PolicyCut => "new policy cuts a live connection",
            Self::WaypointServiceV4 => "waypoint for a service, IPv4",
            Self::WaypointServiceV6 => "waypoint for a service, IPv6",
            Self::WaypointPodV4 => "waypoint for a pod, IPv4",
            Self::WaypointPodV6 => "waypoint for a pod, IPv6",
            Self::Network => "other network, through our gateway",
            Self::NetworkServerEnds => "other network: server ends first",
            Self::NetworkBulk => "other network: 100 MiB each way, compared",
            Self::NetworkMany => "other network: 200 connections at a time",
            Self::NetworkDenied => "other network: denied as another identity",
            Self::Rotation => "both certificates renewed during traffic",
            Self::NewRoot => "root of the authority replaced in traffic",
            Self::Drain => "server proxy drains, live connection goes on",
            Self::RestartServer => "server proxy killed and restarted",
            Self::RestartClient => "client proxy killed and restarted",
        }
    }

    /// Whether there is something to try.
    pub(crate) fn is_for(self, pair: Pair) -> bool {
        match self {
            // What concerns all proxies at once is tried two times.
            Self::NewRoot => pair.client != pair.server,
            // The peer drops its inner tunnel, with what it has not sent yet, once both directions have
            // ended for it. Some of the client's last bytes were lost here; how many by us is not known.
            Self::NetworkServerEnds | Self::NetworkBulk => pair.client == Side::Our,
            _ => true,
        }
    }

    /// Whether the server is on the other network.
    fn is_across(self) -> bool {
        matches!(
            self,
            Self::Network
                | Self::NetworkServerEnds
                | Self::NetworkBulk
                | Self::NetworkMany
                | Self::NetworkDenied
        )
    }

    /// Tries it; what is worth a note in the table comes back.
    pub(crate) async fn run(self, mesh: &mut Mesh, pair: Pair) -> Result<String> {
        let at = Ends::new(mesh, pair, self)?;
        match self {
            Self::PodV4 => at.keeps_source(mesh, at.server_v4, at.client_v4).await,
            Self::PodV6 => at.keeps_source(mesh, at.server_v6, at.client_v6).await,
            Self::ServiceV4 => at.exchange(mesh, at.vip_v4, MIRROR - 8000).await,
            Self::ServiceV6 => at.exchange(mesh, at.vip_v6, MIRROR - 8000).await,
            Self::Names => at.names(mesh),
            Self::ClientEndsFirst => at.exchange(mesh, at.server_v4, MIRROR).await,
            Self::ServerEndsFirst => at.server_ends_first(mesh).await,
            Self::Bulk => at.bulk(mesh).await,
            Self::Many => at.many(mesh).await,
            Self::DeniedPort => at.refused(mesh, &at.client, DENIED).await,
            Self::DeniedIdentity => at.denied_identity(mesh).await,
            Self::Plaintext => at.refused(mesh, STRANGER, ANYONE).await,
            Self::Outside => {
                let stranger = mesh.pod(STRANGER)?.v4().into();
                at.exchange(mesh, stranger, MIRROR).await
            }
            Self::PolicyCut => at.policy_cut(mesh).await,
            Self::WaypointServiceV4 => at.waypoint(mesh, Asked::Service, false).await,
            Self::WaypointServiceV6 => at.waypoint(mesh, Asked::Service, true).await,
            Self::WaypointPodV4 => at.waypoint(mesh, Asked::Pod, false).await,
            Self::WaypointPodV6 => at.waypoint(mesh, Asked::Pod, true).await,
            Self::Network => at.across(mesh).await,
            Self::NetworkServerEnds => at.server_ends_first(mesh).await,
            Self::NetworkBulk => at.bulk(mesh).await,
            Self::NetworkMany => at.many(mesh).await,
            Self::NetworkDenied => at.denied_across(mesh).await,
            Self::Rotation => at.rotation(mesh).await,
            Self::NewRoot => at.new_root(mesh).await,
            Self::Drain => at.drain(mesh).await,
            Self::RestartServer => at.restart(mesh, &at.server).await,
            Self::RestartClient => at.restart(mesh, &at.client).await,
        }
    }
}

/// By which address a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Service,
    Pod,
}

/// A client and a server.
struct Ends {
    client: String,
    other: String,
    server: String,
    client_v4: IpAddr,
    client_v6: IpAddr,
    server_v4: IpAddr,
    server_v6: IpAddr,
    vip_v4: IpAddr,
    vip_v6: IpAddr,
}

impl Ends {
    fn new(mesh: &Mesh, pair: Pair, row: Row) -> Result<Self> {
        let client = format!("{}-client", pair.client.as_str());
        let number = match pair.server {
            Side::Our => 1,
            Side::Their => 2,
        };
        let (place, number) = if row.is_across() {
            ("west-server", 20 + number)
        } else {
            ("server", number)
        };
        let server = format!("{}-{place}", pair.server.as_str());
        let (from, to) = (mesh.pod(&client)?, mesh.pod(&server)?);
        Ok(Self {
            other: format!("{}-other", pair.client.as_str()),
            client_v4: from.v4().into(),
            client_v6: from.v6().into(),
            server_v4: to.v4().into(),
            server_v6: to.v6().into(),
            vip_v4: Ipv4Addr::new(10, 96, 0, number).into(),
            vip_v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number.into()).into(),
            client,
            server,
        })
    }

    fn target(&self, mesh: &Mesh, ip: IpAddr, port: u16) -> Result<Target> {
        from(mesh, &self.client, ip, port)
    }

    /// A live connection to the service, on which a byte has gone both ways.
    async fn hold(&self, mesh: &Mesh, port: u16) -> Result<TcpStream> {
        let target = self.target(mesh, self.vip_v4, port - 8000)?;
        let mut stream = target.connect_tcp().await?;
        ping(&mut stream).await?;
        Ok(stream)
    }

    /// Sends, ends, and must get the same back from a server that answers only after the end.
    async fn exchange(&self, mesh: &Mesh, ip: IpAddr, port: u16) -> Result<String> {
        let target = self.target(mesh, ip, port)?;
        let sent: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
        let answer = tcp_exchange(&target, &sent, WAIT).await?;
        ensure!(
            answer == sent,
            "{} of {} bytes came back, or others",
            answer.len(),
            sent.len()
        );
        Ok(String::new())
    }

    async fn keeps_source(&self, mesh: &Mesh, ip: IpAddr, source: IpAddr) -> Result<String> {
        let note = self.exchange(mesh, ip, MIRROR).await?;
        let visit = mesh.seen.last(&self.server, MIRROR);
        let seen = visit.context("no connection arrived")?.from;
        ensure!(seen == source, "the server saw {seen}, not {source}");
        Ok(note)
    }

    /// The service's name leads to its addresses, by way of the control plane that both have.
    fn names(&self, mesh: &Mesh) -> Result<String> {
        let name = format!("{}.interop.svc.cluster.local", self.server);
        for (v6, vip) in [(false, self.vip_v4), (true, self.vip_v6)] {
            let found = names::resolve(mesh.pod(&self.client)?, &name, v6);
            let found = found.with_context(|| name.clone())?;
            ensure!(found == [vip], "{name} is at {found:?}, not {vip}");
        }
        Ok(String::new())
    }

    async fn server_ends_first(&self, mesh: &Mesh) -> Result<String> {
        const BACK: u64 = 300_000;
        let target = self.target(mesh, self.vip_v4, SERVER_FIRST - 8000)?;
        let mut stream = target.connect_tcp().await?;
        let received = timeout(WAIT, pattern::receive(&mut stream))
            .await
            .context("the server's end did not come")??;
        ensure!(
            received == SERVER_FIRST_BYTES,
            "{received} bytes before the server's end"
        );
        pattern::send(&mut stream, BACK).await?;
        let back = mesh.seen.outcome(&self.server, SERVER_FIRST).await?;
        ensure!(
            back == BACK,
            "{back} of {BACK} bytes after the server's end"
        );
        Ok(String::new())
    }

    async fn bulk(&self, mesh: &Mesh) -> Result<String> {
        let started = Instant::now();
        let target = self.target(mesh, self.vip_v4, BULK - 8000)?;
        let mut stream = target.connect_tcp().await?;
        let (mut read, mut write) = stream.split();
        let both = async {
            tokio::try_join!(
                pattern::receive(&mut read),
                pattern::send(&mut write, BULK_BYTES)
            )
        };
        let (down, ()) = timeout(BULK_WAIT, both).await.context("too slow")??;
        let up = mesh.seen.outcome(&self.server, BULK).await?;
        ensure!(
            (up, down) == (BULK_BYTES, BULK_BYTES),
            "{up} bytes up, {down} down"
        );
        Ok(format!("{:.1} s", started.elapsed().as_secs_f32()))
    }

    /// Every connection has carried bytes before any ends.
    async fn many(&self, mesh: &Mesh) -> Result<String> {
        let before = mesh.seen.count(&self.server, ECHO);
        let target = self.target(mesh, self.vip_v4, ECHO - 8000)?;
        let all = Arc::new(Barrier::new(MANY));
        let mut clients = JoinSet::new();
        for number in 0..MANY {
            let (target, all) = (target.clone(), Arc::clone(&all));
            clients.spawn(async move {
                let one = async {
                    let mut stream = target.connect_tcp().await?;
                    ping(&mut stream).await?;
                    all.wait().await;
                    ping(&mut stream).await?;
                    finish(stream).await
                };
                timeout(WAIT * 2, one)
                    .await
                    .context("too slow, or another failed")
                    .and_then(|outcome| outcome)
                    .with_context(|| format!("connection {number}"))
            });
        }
        let outcomes = clients.join_all().await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if let Some(first) = outcomes.into_iter().find_map(Result::err) {
            return Err(first.context(format!("{failed} of {MANY} failed")));
        }
        let arrived = mesh.seen.count(&self.server, ECHO) - before;
        ensure!(arrived == MANY, "{arrived} arrived");
        Ok(String::new())
    }

    async fn denied_identity(&self, mesh: &Mesh) -> Result<String> {
        self.refused(mesh, &self.other, ECHO).await?;
        // That pod is not cut off altogether: what is for anyone is for it too.
        let target = from(mesh, &self.other, self.server_v4, ANYONE)?;
        let answer = tcp_exchange(&target, b"hello", WAIT).await?;
        ensure!(answer == b"hello", "no answer on the port for anyone");
        Ok(String::new())
    }

    /// Through the gateway, from which the server takes it to come.
    async fn across(&self, mesh: &Mesh) -> Result<String> {
        let note = self.exchange(mesh, self.vip_v4, MIRROR - 8000).await?;
        let visit = mesh.seen.last(&self.server, MIRROR);
        let seen = visit.context("no connection arrived")?.from;
        let gateway = mesh.pod(WEST_GATEWAY)?.v4();
        ensure!(seen == gateway, "the server saw {seen}, not the gateway");
        Ok(note)
    }

    /// The far proxy knows the client: by ALLOW the one port is for `client`, by DENY the other is not
    /// for `other`.
    async fn denied_across(&self, mesh: &Mesh) -> Result<String> {
        for port in [ECHO, ANYONE] {
            let target = from(mesh, &self.other, self.vip_v4, port - 8000)?;
            self.ends(mesh, &target, port)
                .await
                .with_context(|| format!("to port {port}"))?;
            let target = self.target(mesh, self.vip_v4, port - 8000)?;
            let answer = tcp_exchange(&target, b"hello", WAIT).await;
            let answer = answer.with_context(|| format!("as client, to port {port}"))?;
            ensure!(answer == b"hello", "no answer on port {port}");
        }
        Ok(String::new())
    }

    /// A connection from a pod must end without a byte, and the server must not see it.
    async fn refused(&self, mesh: &Mesh, pod: &str, port: u16) -> Result<String> {
        let target = from(mesh, pod, self.server_v4, port)?;
        self.ends(mesh, &target, port).await
    }

    async fn ends(&self, mesh: &Mesh, target: &Target, port: u16) -> Result<String> {
        let before = mesh.seen.count(&self.server, port);
        let outcome = tcp_outcome(target, b"let me in", WAIT).await;
        let note = match outcome {
            Outcome::Ended => "ended",
            Outcome::Reset => "reset",
            other => bail!("{other:?}"),
        };
        let arrived = mesh.seen.count(&self.server, port) - before;
        ensure!(arrived == 0, "the server saw the connection");
        Ok(note.to_owned())
    }

    async fn policy_cut(&self, mesh: &Mesh) -> Result<String> {
        let mut stream = self.hold(mesh, CUT).await?;
        let file = mesh.configuration("cut.yaml");
        fs::write(&file, CUT_POLICY)?;
        let started = Instant::now();
        let cut = timeout(WAIT, ended(&mut stream)).await;
        let after = started.elapsed();
        let denied = self.refused(mesh, &self.client, CUT).await;
        fs::remove_file(&file)?;
        cut.context("still alive")??;
        denied.context("a new connection under the policy")?;
        self.until_works(mesh, CUT).await?;
        Ok(format!("{:.1} s", after.as_secs_f32()))
    }

    /// To the server behind the waypoint, whose policy admits the waypoint alone: that it answers shows
    /// the way, and the address that it saw shows it again.
    async fn waypoint(&self, mesh: &Mesh, asked: Asked, v6: bool) -> Result<String> {
        let server = self.server.replace("-server", "-behind-server");
        let (pod, way) = (mesh.pod(&server)?, mesh.pod("waypoint")?);
        let last = if server.starts_with("our") { 1 } else { 2 };
        let (ip, port) = match (asked, v6) {
            (Asked::Service, false) => (Ipv4Addr::new(10, 96, 0, 10 + last).into(), MIRROR - 8000),
            (Asked::Service, true) => {
                let last = u16::from(0x10 + last);
                let vip = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, last);
                (vip.into(), MIRROR - 8000)
            }
            (Asked::Pod, false) => (pod.v4().into(), MIRROR),
            (Asked::Pod, true) => (pod.v6().into(), MIRROR),
        };
        let note = self.exchange(mesh, ip, port).await?;
        let visit = mesh.seen.last(&server, MIRROR);
        let seen = visit.context("no connection arrived")?.from;
        let addresses = [IpAddr::from(way.v4()), IpAddr::from(way.v6())];
        ensure!(
            addresses.contains(&seen),
            "the server saw {seen}, not the waypoint"
        );
        Ok(note)
    }

    /// One connection lives, and new ones come, until both proxies have other certificates than before;
    /// then so many connections at a time that new tunnels are needed, which have the new ones.
    async fn rotation(&self, mesh: &mut Mesh) -> Result<String> {
        let mut live = self.hold(mesh, ECHO).await?;
        let count = self.until_renewed(mesh, &mut live).await?;
        self.after_renewal(mesh, live).await?;
        Ok(format!("{count} new"))
    }

    /// As [`Self::rotation`], two times: first the authority has all trust a second root, then it signs
    /// by that.
    async fn new_root(&self, mesh: &mut Mesh) -> Result<String> {
        let mut live = self.hold(mesh, ECHO).await?;
        let next = roots::make(mesh).await?;
        let trusted = roots::trust_also(mesh, &next).await?;
        let mut count = self.until_renewed(mesh, &mut live).await?;
        for (pod, account) in self.holders() {
            let known = mesh.certificate(pod, account).await?;
            let known = known["rootCerts"].as_array().map_or(0, Vec::len);
            ensure!(known == trusted, "{pod} trusts {known} roots of {trusted}");
        }
        roots::sign_by(mesh, &next).await?;
        count += self.until_renewed(mesh, &mut live).await?;
        self.after_renewal(mesh, live).await?;
        Ok(format!("{count} new"))
    }

    /// So many connections at a time that new tunnels are needed; and the one that lived through it.
    async fn after_renewal(&self, mesh: &Mesh, mut live: TcpStream) -> Result<()> {
        self.many(mesh).await.context("after it")?;
        ping(&mut live)
            .await
            .context("the live connection, after it")?;
        finish(live).await
    }

    /// Whose certificates matter, with the account each is for.
    fn holders(&self) -> [(&str, &str); 2] {
        [(&self.client, "client"), (&self.server, &self.server)]
    }

    async fn serials(&self, mesh: &mut Mesh) -> Result<[String; 2]> {
        let [(client, of_client), (server, of_server)] = self.holders();
        Ok([
            mesh.serial(client, of_client).await?,
            mesh.serial(server, of_server).await?,
        ])
    }

    /// A connection lives, and new ones come, until both proxies have other certificates than now.
    async fn until_renewed(&self, mesh: &mut Mesh, live: &mut TcpStream) -> Result<usize> {
        let before = self.serials(mesh).await?;
        let target = self.target(mesh, self.vip_v4, ECHO - 8000)?;
        let started = Instant::now();
        let mut count = 0;
        loop {
            for _ in 0..20 {
                ping(live).await.context("the live connection")?;
                let answer = tcp_exchange(&target, b"hello", WAIT).await;
                let answer = answer.with_context(|| format!("new connection {count}"))?;
                ensure!(answer == b"hello", "other bytes came back");
                count += 1;
            }
            let now = self.serials(mesh).await?;
            if now.iter().zip(&before).all(|(now, before)| now != before) {
                return Ok(count);
            }
            let waited = started.elapsed();
            ensure!(waited < ROTATION_WAIT, "the same certificates as before");
        }
    }

    /// The server's proxy stops taking connections, and the live one is served to its end.
    async fn drain(&self, mesh: &mut Mesh) -> Result<String> {
        let mut stream = self.hold(mesh, ECHO).await?;
        let tunnel = Target::new(SocketAddr::new(self.server_v4, 15008));
        let tunnel = tunnel.from_place(mesh.pod(STRANGER)?);
        let proxy = mesh.proxy_of(&self.server)?;
        proxy.signal(nix::sys::signal::Signal::SIGTERM)?;
        let closed = until(WAIT, async || tunnel.connect_tcp().await.is_err()).await;
        let went_on = async {
            ensure!(closed, "port 15008 still takes connections");
            ping(&mut stream).await?;
            finish(stream).await
        };
        let went_on = went_on.await;
        let ended = proxy.terminate(DRAIN + WAIT).await;
        mesh.restart_proxy_of(&self.server).await?;
        self.until_works(mesh, ECHO).await?;
        went_on.context("the live connection")?;
        ended?;
        Ok(String::new())
    }

    async fn restart(&self, mesh: &mut Mesh, pod: &str) -> Result<String> {
        let mut stream = self.hold(mesh, ECHO).await?;
        mesh.proxy_of(pod)?.kill()?;
        timeout(WAIT * 2, ended(&mut stream))
            .await
            .context("the connection outlived its proxy")??;
        mesh.restart_proxy_of(pod).await?;
        let attempts = self.until_works(mesh, ECHO).await?;
        Ok(match attempts {
            1 => String::new(),
            n => format!("{n} attempts"),
        })
    }

    /// Gives how many attempts it took.
    async fn until_works(&self, mesh: &Mesh, port: u16) -> Result<usize> {
        let target = self.target(mesh, self.vip_v4, port - 8000)?;
        let started = Instant::now();
        for attempt in 1.. {
            match tcp_exchange(&target, b"again", WAIT).await {
                Ok(answer) if answer == b"again" => return Ok(attempt),
                last if started.elapsed() > WAIT => bail!("no new connection works: {last:?}"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        bail!("not tried")
    }
}
