//! Texts as operators and charts write them.

use mesh_grpc::TextSource;
use std::convert::Infallible;
use std::time::Duration;

/// Reads `500ms`, `10s`, `5m`, `24h`; a bare number is seconds.
///
/// # Errors
/// When the text is not of that form, or is too long for a [`Duration`]; says so for the operator.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration such as 500ms, 10s, 5m or 24h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let seconds = |factor: u64| number.checked_mul(factor).ok_or_else(bad);
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(seconds(60)?)),
        "h" => Ok(Duration::from_secs(seconds(3600)?)),
        _ => Err(bad()),
    }
}

/// A text given as itself or as the path of a file: paths begin with `/` or `.`.
///
/// # Errors
/// Never; the form is the one that clap wants of a value parser.
pub fn text_source(text: &str) -> Result<TextSource, Infallible> {
    Ok(if text.starts_with(['/', '.']) {
        TextSource::File(text.into())
    } else {
        TextSource::Literal(text.into())
    })
}

/// Charts of other meshes write addresses without a scheme: then it is `https`.
///
/// # Errors
/// Never; the form is the one that clap wants of a value parser.
pub fn with_scheme(address: &str) -> Result<String, Infallible> {
    Ok(if address.contains("://") {
        address.into()
    } else {
        format!("https://{address}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in [
            "",
            "s",
            "ms",
            "1d",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn texts_and_addresses_are_read_as_istio_writes_them() {
        assert_eq!(with_scheme("istiod:15012").unwrap(), "https://istiod:15012");
        assert_eq!(with_scheme("http://x:1").unwrap(), "http://x:1");
        let literal = |text: &str| TextSource::Literal(text.into());
        let file = |text: &str| TextSource::File(text.into());
        assert_eq!(text_source("/run/token").unwrap(), file("/run/token"));
        assert_eq!(text_source("./token").unwrap(), file("./token"));
        assert_eq!(text_source("eyJh.e30.x").unwrap(), literal("eyJh.e30.x"));
    }
}
