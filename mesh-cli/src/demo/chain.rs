//! The long way: internet, gateway, frontend, reviews by an 80/20 split, ratings.

use super::check::{self, Outcome, Question};
use super::report::Check;
use super::traffic::{MESSAGE, at};
use crate::demo::EDGE;
use anyhow::{Context, Result};
use mesh_lab::client::{HttpAnswer, HttpCall, HttpConnection, HttpVersion, Target};
use mesh_lab::world::World;
use mesh_lab::world::configuration::SHOP;
use mesh_tls::{EdgeClientSettings, EdgeConnector};
use std::collections::BTreeMap;
use std::time::Duration;

/// The share of reviews-v1 may stray this far from 80 %: three standard deviations of 200 draws.
const SHARE_OF_V1: std::ops::RangeInclusive<f64> = 0.715..=0.885;

/// The gateway's HTTPS listener as a client on the internet sees it.
pub(crate) fn edge(world: &World, host: &str) -> Result<Target> {
    let settings = EdgeClientSettings::named(host, &world.configuration.web_root_pem);
    let connector = EdgeConnector::new(&settings.alpn(&["http/1.1"]))?;
    Ok(Target::new(EDGE)
        .from_place(world.place("internet")?)
        .tls(connector))
}

/// 200 requests all the way, and how they were split.
pub(crate) async fn split(world: &World, requests: usize) -> Result<Check> {
    let questions = [
        Question::request("gateway:demo/edge/https", "demo/frontend", 8443, "GET", "/").host(SHOP),
        Question::request("demo/frontend", "demo/reviews", 9080, "GET", "/reviews"),
        Question::request("demo/reviews-v1", "demo/ratings", 9080, "GET", "/ratings"),
    ];
    check::run(
        world,
        "HTTPS to an 80/20 split",
        &questions,
        async |world| {
            let call = HttpCall::get(SHOP, "/").header("x-secret", MESSAGE);
            let mesh = requests_through(&edge(world, SHOP)?, &call, requests).await?;
            let plain = Target::new(at("10.42.2.30:8080")?).from_place(world.place("internet")?);
            let direct = requests_through(&plain, &HttpCall::get(SHOP, "/"), requests).await?;
            let share = share(
                mesh.releases.get("reviews-v1").copied().unwrap_or(0),
                requests,
            );
            Ok(Outcome {
                ok: mesh.complete == requests && SHARE_OF_V1.contains(&share),
                detail: format!(
                    "{} of {requests} answered by the whole chain; reviews-v1 took {:.0} %{}",
                    mesh.complete,
                    share * 100.0,
                    mesh.complaint.map(|c| format!("; {c}")).unwrap_or_default()
                ),
                p50_us_mesh: check::p50_us(mesh.times),
                p50_us_direct: check::p50_us(direct.times),
            })
        },
    )
    .await
}

fn share(part: usize, whole: usize) -> f64 {
    let number = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    number(part) / number(whole.max(1))
}

#[derive(Default)]
struct Chain {
    complete: usize,
    releases: BTreeMap<String, usize>,
    times: Vec<Duration>,
    complaint: Option<String>,
}

async fn requests_through(target: &Target, call: &HttpCall, requests: usize) -> Result<Chain> {
    let mut chain = Chain::default();
    let mut connection = HttpConnection::open(target, HttpVersion::Http1).await?;
    for n in 0..requests {
        let answer = connection
            .send(call)
            .await
            .with_context(|| format!("request {n}"))?;
        match links(&answer) {
            Some(reviews) => {
                chain.complete += 1;
                *chain.releases.entry(reviews).or_default() += 1;
            }
            None => {
                let body: String = answer.body.chars().take(300).collect();
                chain
                    .complaint
                    .get_or_insert_with(|| format!("{}: {body}", answer.status));
            }
        }
        chain.times.push(answer.took);
    }
    Ok(chain)
}

/// The name of the reviews that served, when every link of the chain answered.
fn links(answer: &HttpAnswer) -> Option<String> {
    let frontend = answer.echo().filter(|_| answer.status == 200)?;
    let reviews = frontend.next?.answer?;
    let ratings = reviews.next?.answer?;
    ratings.name.ends_with("ratings").then_some(reviews.name)
}
