//! Ids for records that come without an id: a UUIDv5 over the natural key. Every machine and every replay makes the
//! same id.

use uuid::Uuid;

/// The namespace of this program's ids. It was made once, at random.
const NAMESPACE: Uuid = Uuid::from_u128(0x7a1c_94d0_0f6e_4f0b_9c55_5f3a_d1b0_e2c7);

/// Returns the id for a natural key, as text.
pub fn of(key: &str) -> String {
    uuid(key).to_string()
}

/// Returns the UUID for a natural key.
pub fn uuid(key: &str) -> Uuid {
    within(NAMESPACE, key)
}

/// Returns the UUID for a key that is unique within a namespace, such as the events of one actor.
pub fn within(namespace: Uuid, key: &str) -> Uuid {
    Uuid::new_v5(&namespace, key.as_bytes())
}
