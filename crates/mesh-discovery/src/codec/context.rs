//! What every decoder needs: the resource's name for messages, and the small conversions.

use super::DecodeError;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

/// The resource being decoded.
pub(super) struct Context<'a> {
    name: &'a str,
    lenient: bool,
}

impl<'a> Context<'a> {
    pub(super) fn new(name: &'a str) -> Self {
        Self {
            name,
            lenient: false,
        }
    }

    /// A context in which bad entries of a policy's lists are left out of them.
    pub(super) fn lenient(name: &'a str) -> Self {
        Self {
            name,
            lenient: true,
        }
    }

    pub(super) fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// A refusal of a field.
    pub(super) fn bad(&self, field: impl Display, why: impl Display) -> DecodeError {
        DecodeError::Field {
            name: self.name.into(),
            field: field.to_string(),
            why: why.to_string(),
        }
    }

    /// An enum value; unknown ones are refused.
    pub(super) fn known<E: TryFrom<i32>>(
        &self,
        field: impl Display,
        number: i32,
    ) -> Result<E, DecodeError> {
        E::try_from(number).map_err(|_| self.bad(field, format!("unknown enum value {number}")))
    }

    /// A text that may not be empty.
    pub(super) fn required<'t>(&self, field: &str, text: &'t str) -> Result<&'t str, DecodeError> {
        if text.is_empty() {
            Err(self.bad(field, "is required"))
        } else {
            Ok(text)
        }
    }

    /// A part of the resource's key, which joins them with slashes: a slash inside of one would make
    /// the key that of another resource, or of none, so that it could not be removed again.
    pub(super) fn key_part<'t>(&self, field: &str, text: &'t str) -> Result<&'t str, DecodeError> {
        if text.contains('/') {
            return Err(self.bad(field, format!("'{text}' holds a slash")));
        }
        self.required(field, text)
    }

    /// A text of a given form.
    pub(super) fn parse<T>(&self, field: impl Display, text: &str) -> Result<T, DecodeError>
    where
        T: FromStr<Err: Display>,
    {
        text.parse::<T>().map_err(|e| self.bad(field, e))
    }

    /// A port, 0 included.
    pub(super) fn port(&self, field: impl Display, number: u32) -> Result<u16, DecodeError> {
        u16::try_from(number).map_err(|_| self.bad(field, format!("{number} is not a port")))
    }

    /// A port, where 0 stands for none.
    pub(super) fn optional_port(
        &self,
        field: impl Display,
        number: u32,
    ) -> Result<Option<u16>, DecodeError> {
        self.port(field, number).map(|p| (p != 0).then_some(p))
    }

    /// An address of 4 or 16 bytes; an IPv4-mapped one is the v4 address, as traffic is looked up by it.
    pub(super) fn ip(&self, field: impl Display, bytes: &[u8]) -> Result<IpAddr, DecodeError> {
        if let Ok(four) = <[u8; 4]>::try_from(bytes) {
            Ok(four.into())
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
            Ok(IpAddr::from(sixteen).to_canonical())
        } else {
            let why = format!("an address has 4 or 16 bytes, this one has {}", bytes.len());
            Err(self.bad(field, why))
        }
    }
}

/// The bytes of an address.
pub(super) fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `None` for the empty text.
pub(super) fn non_empty(text: &str) -> Option<std::sync::Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// The text, empty for `None`.
pub(super) fn text(text: Option<&std::sync::Arc<str>>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}
