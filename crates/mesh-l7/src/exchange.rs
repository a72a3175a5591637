//! One request from its head to the head of its response, top to bottom.

use crate::answer;
use crate::body::{self, RequestBody, ResponseBody};
use crate::connection::ConnectionState;
use crate::context::{ConnectionContext, OwnedScope, Role};
use crate::filters;
use crate::head::{Failure, Head};
use crate::headers;
use crate::policy::Policies;
use crate::proxy::Shared;
use crate::record::ExchangeGuard;
use crate::send::{Sending, Sent};
use crate::tunnel::{Revoked, Switched};
use http::header::HeaderValue;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use mesh_model::{ListenerProtocol, Reason, RouteTimeouts, Snapshot};
use mesh_plan::{
    HttpForward, HttpPlan, HttpRedirect, HttpScope, Refusal, Target, TargetKind, Transport,
};
use mesh_telemetry::{RequestFacts, SpanKind};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// What the requests of one connection share.
pub(crate) struct Downstream {
    pub(crate) shared: Rc<Shared>,
    pub(crate) context: Rc<ConnectionContext>,
    pub(crate) state: Rc<ConnectionState>,
    pub(crate) policies: Policies,
}

/// How a request is answered.
enum Answer {
    Ours(Response<ResponseBody>),
    Upstream {
        response: Response<Incoming>,
        sent: Sent,
        revoked: Option<Revoked>,
    },
    Switched {
        head: Response<()>,
        sent: Sent,
        revoked: Option<Revoked>,
    },
}

impl Downstream {
    /// Serves one request. The record ends with the response's body, or here.
    pub(crate) async fn exchange(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let version = request.version();
        let guard = self.begin(&request);
        let mut response = match self.answer(&guard, request).await {
            Ok(answer) => match self.finish(guard, answer).await {
                Ok(response) => response,
                Err((guard, failure)) => refuse(&guard, &failure),
            },
            Err(failure) => refuse(&guard, &failure),
        };
        *response.version_mut() = version;
        response
    }

    /// Begins the record and the server span.
    fn begin(&self, request: &Request<Incoming>) -> ExchangeGuard {
        let context = &self.context;
        let mut facts = RequestFacts::of(context.reporter, request);
        facts.source = context.source.clone();
        facts.security = context.security;
        facts.server_name = context.server_name.as_deref().map(str::to_owned);
        facts.local_address = Some(context.destination);
        let name = request.method().as_str();
        let tracer = &self.shared.tracer;
        let mut span = tracer.start(request.headers(), name, SpanKind::Server);
        if tracer.is_on() {
            span.set_request(request.method(), request.uri());
            if let Some(workload) = &context.client.workload {
                span.set_workload(workload);
            }
        }
        let mut record = self.shared.metrics.request(facts);
        if let Some(trace) = span.context() {
            record.set_trace_id(trace.trace_id_text());
        }
        ExchangeGuard::begin(record, span, self.state.clone())
    }

    /// The phases of a request; every failure leaves here.
    async fn answer(
        &self,
        guard: &ExchangeGuard,
        request: Request<Incoming>,
    ) -> Result<Answer, Failure> {
        // HTTP/1.1's codec has its own limit; HTTP/2's bounds the bytes only.
        let headers_max = self.shared.settings.header_count_max;
        if request.headers().len() > headers_max {
            let failure = Failure::new(Reason::BadRequest, "too many headers");
            return Err(failure.with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        let head = Head::check(&request)?;
        let snapshot = self.context.snapshots.borrow().clone();
        self.authorize(guard, &snapshot, &head, request.headers())?;
        match self.plan(&snapshot, &head, request.headers()) {
            HttpPlan::Forward(forward) => {
                self.forward(guard, &snapshot, request, head, *forward)
                    .await
            }
            HttpPlan::Redirect(redirect) => self.redirect(guard, &head, &redirect),
            HttpPlan::Refuse(refusal) => {
                let failure = Failure::new(refusal.reason, refusal.detail);
                Err(match refusal.reason {
                    Reason::WrongDestination => {
                        failure.with_status(StatusCode::MISDIRECTED_REQUEST)
                    }
                    _ => failure,
                })
            }
        }
    }

    fn authorize(
        &self,
        guard: &ExchangeGuard,
        snapshot: &Arc<Snapshot>,
        head: &Head,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        let Some(decision) = self.policies.decide(&self.context, snapshot, head, headers) else {
            return Ok(());
        };
        if let Some(policy) = &decision.policy {
            guard.record(|record| record.set_policy(policy));
        }
        for policy in &decision.dry_run {
            tracing::info!(%policy, path = head.path, "a policy in dry run would deny this");
        }
        if decision.allowed {
            return Ok(());
        }
        Err(Failure::new(decision.reason, decision.detail))
    }

    fn plan(&self, snapshot: &Snapshot, head: &Head, headers: &HeaderMap) -> HttpPlan {
        let lookup = |name: &str| headers::joined(headers, name);
        let facts = head.facts(&lookup);
        let client = &self.context.client;
        let mut dice = self.shared.dice.borrow_mut();
        match &self.context.scope {
            OwnedScope::Service { name, port } => match snapshot.service(name) {
                Some(service) => {
                    let scope = HttpScope::Service {
                        service,
                        port: *port,
                    };
                    mesh_plan::http(snapshot, client, &scope, &facts, &mut dice)
                }
                None => refused(Reason::NoEndpoint, format!("service {name} is gone")),
            },
            OwnedScope::Gateway { gateway, port } => {
                let of_http = |l: &&Arc<mesh_model::GatewayListener>| {
                    matches!(l.protocol, ListenerProtocol::Http | ListenerProtocol::Https)
                };
                let pick = |host: &str| {
                    let listeners = snapshot.listeners(gateway).filter(of_http);
                    mesh_routing::pick_listener(listeners, *port, host)
                };
                let Some(listener) = pick(&head.host) else {
                    let detail = format!("no listener of {gateway} takes host {}", head.host);
                    return refused(Reason::NoRoute, detail);
                };
                if let Some(name) = &self.context.server_name
                    && pick(name).is_some_and(|l| l.key != listener.key)
                {
                    let detail = format!("host {} on a connection made to {name}", head.host);
                    return refused(Reason::WrongDestination, detail);
                }
                let scope = HttpScope::Gateway { gateway, listener };
                mesh_plan::http(snapshot, client, &scope, &facts, &mut dice)
            }
            OwnedScope::App { .. } | OwnedScope::Workload { .. } => {
                match self.routeless_target(snapshot) {
                    Ok(target) => HttpPlan::Forward(Box::new(HttpForward {
                        rule: None,
                        target,
                        filters: Vec::new(),
                        prefix: None,
                        timeouts: RouteTimeouts::default(),
                    })),
                    Err(refusal) => HttpPlan::Refuse(refusal),
                }
            }
        }
    }

    /// The target of a scope without routes.
    fn routeless_target(&self, snapshot: &Snapshot) -> Result<Target, Refusal> {
        match &self.context.scope {
            OwnedScope::App {
                address,
                workload,
                service,
                app_protocol,
            } => Ok(Target {
                address: *address,
                transport: Transport::Plain,
                workload: workload.clone(),
                service: service
                    .as_ref()
                    .and_then(|name| snapshot.service(name))
                    .cloned(),
                service_port: None,
                kind: TargetKind::Endpoint,
                app_protocol: *app_protocol,
                destination: *address,
            }),
            OwnedScope::Workload { uid, address } => match snapshot.workload(uid) {
                Some(workload) => Ok(mesh_plan::to_workload(workload, *address)),
                None => Err(Refusal::new(
                    Reason::NoEndpoint,
                    format!("workload {uid} is gone"),
                )),
            },
            OwnedScope::Service { .. } | OwnedScope::Gateway { .. } => {
                Err(Refusal::new(Reason::Internal, "a scope with routes"))
            }
        }
    }

    async fn forward(
        &self,
        guard: &ExchangeGuard,
        snapshot: &Arc<Snapshot>,
        request: Request<Incoming>,
        mut head: Head,
        forward: HttpForward,
    ) -> Result<Answer, Failure> {
        if let Some(rule) = &forward.rule {
            guard.set_route(&rule.name);
        }
        let started = Instant::now();
        let mut revoked = Policies::revocation(&self.context, snapshot, &head, request.headers());
        let version = self.upstream_version(&request, forward.target.app_protocol);
        let upgrade = headers::upgrade_wanted(&request);
        let switching = upgrade.is_some();
        let request = self.prepare(guard, request, &mut head, &forward, upgrade)?;
        let sending = Sending {
            downstream: self,
            guard,
            snapshot,
            head: &head,
            version,
            switching,
            started,
        };
        let run = sending.run(request, &forward);
        let (mut response, sent) = match &mut revoked {
            None => run.await?,
            // A body may go up for long before an answer comes down.
            Some(revoked) => tokio::select! {
                biased;
                (reason, detail) = revoked => return Err(Failure::new(reason, detail)),
                done = run => done?,
            },
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !switching {
                let detail = "the upstream switches protocols without being asked";
                return Err(Failure::new(Reason::UpstreamReset, detail));
            }
            filters::on_response(&forward.filters, response.headers_mut());
            return Ok(Answer::Switched {
                head: response.map(|_| ()),
                sent,
                revoked,
            });
        }
        headers::strip_hop_by_hop(response.headers_mut());
        filters::on_response(&forward.filters, response.headers_mut());
        Ok(Answer::Upstream {
            response,
            sent,
            revoked,
        })
    }

    /// Makes the request that is sent of the one that came: filters, hop-by-hop headers off, edge
    /// headers, request id and trace on.
    fn prepare(
        &self,
        guard: &ExchangeGuard,
        request: Request<Incoming>,
        head: &mut Head,
        forward: &HttpForward,
        upgrade: Option<HeaderValue>,
    ) -> Result<Request<RequestBody>, Failure> {
        let exchange = guard.shared().clone();
        let mut request = request.map(|inner| RequestBody::new(inner, exchange));
        // hyper's own: of no use to the upstream's codec.
        request.extensions_mut().clear();
        let headers = request.headers_mut();
        headers::strip_hop_by_hop(headers);
        if let Some(protocol) = upgrade {
            headers::set_upgrade(headers, protocol);
        }
        if let Role::Edge { secure } = self.context.role {
            headers::set_edge(headers, self.context.peer_address.ip(), secure);
        }
        if self.context.is_unproven_inbound() {
            headers::remove_client_cert(headers);
        }
        let new_id = headers::ensure_request_id(headers, &mut self.shared.dice.borrow_mut());
        if let Some(id) = new_id {
            guard.record(|record| record.set_request_id(id));
        }
        filters::on_request(&forward.filters, forward.prefix.as_deref(), headers, head)?;
        guard.start_client_span(&head.method, headers);
        Ok(request)
    }

    fn redirect(
        &self,
        guard: &ExchangeGuard,
        head: &Head,
        redirect: &HttpRedirect,
    ) -> Result<Answer, Failure> {
        guard.set_route(&redirect.rule.name);
        let secure = matches!(self.context.role, Role::Edge { secure: true });
        let port = match &self.context.scope {
            OwnedScope::Gateway { port, .. } | OwnedScope::Service { port, .. } => *port,
            _ => self.context.destination.port(),
        };
        let location = mesh_routing::redirect_location(
            &redirect.filter,
            &mesh_routing::RedirectFrom {
                scheme: if secure { "https" } else { "http" },
                host: &head.host,
                port,
                path: &head.path,
                query: head.query.as_deref(),
                prefix: redirect.prefix.as_deref(),
            },
        );
        let invalid = |what: &str| Failure::new(Reason::Internal, format!("redirect: {what}"));
        let status = StatusCode::from_u16(redirect.filter.status)
            .map_err(|_| invalid("the status is none"))?;
        let location =
            HeaderValue::try_from(location).map_err(|_| invalid("the location is no header"))?;
        let mut response = answer::redirect(status, location);
        for modifier in &redirect.response_filters {
            filters::modify(response.headers_mut(), modifier);
        }
        Ok(Answer::Ours(response))
    }

    /// Puts the answer together and hands the record to whatever ends it.
    async fn finish(
        &self,
        guard: ExchangeGuard,
        answer: Answer,
    ) -> Result<Response<ResponseBody>, (ExchangeGuard, Failure)> {
        match answer {
            Answer::Ours(response) => {
                guard.end(Some(response.status().as_u16()), Reason::Ok, None);
                Ok(response)
            }
            Answer::Upstream {
                response,
                sent,
                revoked,
            } => {
                guard.response_started(response.status().as_u16());
                body::note_grpc_status(&guard, response.headers());
                let grpc = headers::is_grpc(response.headers());
                Ok(response.map(|inner| {
                    ResponseBody::upstream(inner, guard, sent.lease, sent.deadline, revoked, grpc)
                }))
            }
            Answer::Switched {
                head,
                sent,
                revoked,
            } => {
                let Some(upstream) = sent.lease.switched().await else {
                    let detail = "the upstream closed while switching protocols";
                    return Err((guard, Failure::new(Reason::UpstreamReset, detail)));
                };
                guard.response_started(head.status().as_u16());
                self.state.set_switched(Switched {
                    upstream,
                    guard,
                    revoked,
                });
                Ok(head.map(|()| ResponseBody::text("")))
            }
        }
    }

    /// The upstream's version: the declared one; else, inside the mesh, the client's own, since the
    /// client knows the server; at the edge HTTP/1.1, which every server speaks. gRPC is HTTP/2.
    fn upstream_version(
        &self,
        request: &Request<Incoming>,
        declared: mesh_model::AppProtocol,
    ) -> crate::upstream::UpstreamVersion {
        use crate::upstream::UpstreamVersion::{Http1, Http2};
        use mesh_model::AppProtocol;
        let came_by_http2 = request.version() == Version::HTTP_2;
        match declared {
            AppProtocol::Http2 | AppProtocol::Grpc => Http2,
            _ if came_by_http2 && headers::is_grpc(request.headers()) => Http2,
            AppProtocol::Http11 => Http1,
            _ if came_by_http2 && self.context.role == Role::Mesh => Http2,
            _ => Http1,
        }
    }
}

fn refused(reason: Reason, detail: String) -> HttpPlan {
    HttpPlan::Refuse(Refusal::new(reason, detail))
}

/// The exit of every failure before a response's head: record, metric and answer of one reason.
fn refuse(guard: &ExchangeGuard, failure: &Failure) -> Response<ResponseBody> {
    let status = failure
        .status
        .unwrap_or_else(|| answer::status_of(failure.reason));
    guard.end(
        Some(status.as_u16()),
        failure.reason,
        Some(failure.detail.clone()),
    );
    answer::failure(status, failure.reason)
}
