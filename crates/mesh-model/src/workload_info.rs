//! A workload, as a proxy knows its own.

use std::str::FromStr;
use std::sync::Arc;

/// A workload as it is looked up: interop/xds-workload.md section 7. No part is empty or has a `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadInfo {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
}

impl FromStr for WorkloadInfo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            [namespace, name, account]
                if [namespace, name, account].iter().all(|p| !p.is_empty()) =>
            {
                Ok(Self {
                    namespace: (*namespace).into(),
                    name: (*name).into(),
                    service_account: (*account).into(),
                })
            }
            _ => Err(format!(
                "'{text}' is not of the form namespace/pod/service-account"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_parts_are_needed() {
        let info: WorkloadInfo = "demo/web-1/web".parse().unwrap();
        let parts = [&info.namespace, &info.name, &info.service_account];
        assert_eq!(parts.map(|p| &**p), ["demo", "web-1", "web"]);
        for bad in ["web", "demo/web-1", "demo//web", "a/b/c/d", ""] {
            assert!(bad.parse::<WorkloadInfo>().is_err(), "{bad} was taken");
        }
    }
}
