//! Ids of what brings none: UUIDv5 over its natural key, the same on every machine and every replay.

use uuid::Uuid;

/// Of this program alone, made once at random.
const NAMESPACE: Uuid = Uuid::from_u128(0x7a1c_94d0_0f6e_4f0b_9c55_5f3a_d1b0_e2c7);

/// The id for a natural key.
pub fn of(key: &str) -> String {
    uuid(key).to_string()
}

/// The UUID for a natural key.
pub fn uuid(key: &str) -> Uuid {
    within(NAMESPACE, key)
}

/// The UUID for a key that is natural within something that has a UUID itself.
pub fn within(namespace: Uuid, key: &str) -> Uuid {
    Uuid::new_v5(&namespace, key.as_bytes())
}
