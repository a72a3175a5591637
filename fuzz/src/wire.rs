//! Resources as a control plane sends them.

use mesh_discovery::codec::{self, TYPES_ALL};
use mesh_model::{Resource, SnapshotBuilder};

/// Resources of each type: what can be decoded is encoded, decoded and filed the same, and a policy
/// that cannot be decoded has one that denies in its place. The first byte chooses the type.
pub fn resource(data: &[u8]) {
    let Some((kind, value)) = data.split_first() else {
        return;
    };
    let kind = TYPES_ALL[usize::from(*kind) % TYPES_ALL.len()];
    match codec::decode(kind, "demo/some", value) {
        Ok(resource) => {
            survives_the_wire(&resource);
            is_filed(&resource);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let stand_in = codec::unreadable(kind, "demo/some", value, "why");
            let policy = [codec::TYPE_AUTHORIZATION, codec::TYPE_HTTP_POLICY].contains(&kind);
            assert_eq!(stand_in.is_some(), policy);
            if let Some(Resource::Policy(policy) | Resource::HttpPolicy(policy)) = &stand_in {
                assert!(policy.invalid.is_some() && !policy.dry_run);
            }
        }
    }
}

/// Decoding undoes encoding, and the name on the wire leads to the resource.
pub(crate) fn survives_the_wire(resource: &Resource) {
    let wire = codec::encode(resource);
    let again = codec::decode(wire.type_url, &wire.name, &wire.value);
    assert_eq!(again.as_ref(), Ok(resource));
    assert_eq!(codec::encode(resource), wire);
    assert!(codec::keys(wire.type_url, &wire.name).contains(&resource.key()));
}

/// It is there once, and can be removed by its key.
pub(crate) fn is_filed(resource: &Resource) {
    let mut builder = SnapshotBuilder::new();
    builder.upsert(resource.clone());
    builder.upsert(resource.clone());
    let filed = builder.snapshot().resources();
    assert_eq!(filed.as_slice(), std::slice::from_ref(resource));
    builder.remove(&resource.key());
    assert!(builder.snapshot().resources().is_empty());
}
