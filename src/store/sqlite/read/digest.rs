//! A digest of the public tables: two databases are the same if their digests are equal.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Transaction;
use rusqlite::types::ValueRef;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::store::error::StoreError;
use crate::store::sqlite::schema::PUBLIC_TABLES;
use crate::store::sqlite::values::from_sql;

/// The contents of a database, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Digest {
    /// The sequence of each stream up to which the database is exact.
    pub as_of: BTreeMap<String, u64>,
    /// SHA-256 of each public table, in hexadecimal.
    pub tables: BTreeMap<String, String>,
}

/// Hashes the public tables, rows in primary-key order.
///
/// A column enters the hash as a letter for its type, then its value. Integers and reals are 8 bytes, big-endian.
/// Texts and blobs are 8 bytes of length, then their bytes.
pub(super) fn digest(tx: &Transaction<'_>, path: &Path) -> Result<Digest, StoreError> {
    let not_migrated =
        |error: rusqlite::Error| StoreError::NotMigrated { path: path.to_owned(), error: error.to_string() };
    let as_of = as_of(tx).map_err(not_migrated)?;
    let mut tables = BTreeMap::new();
    for (table, columns) in PUBLIC_TABLES {
        tables.insert(table.to_owned(), hash_table(tx, table, columns)?);
    }
    Ok(Digest { as_of, tables })
}

pub(super) fn as_of(tx: &Transaction<'_>) -> rusqlite::Result<BTreeMap<String, u64>> {
    let sql = "SELECT stream, last_seq FROM _positions p \
               WHERE epoch = (SELECT max(epoch) FROM _positions o WHERE o.stream = p.stream)";
    tx.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, from_sql(row.get(1)?))))?.collect()
}

fn hash_table(tx: &Transaction<'_>, table: &str, columns: &str) -> rusqlite::Result<String> {
    let mut statement = tx.prepare(&format!("SELECT {columns} FROM {table} ORDER BY id"))?;
    let width = statement.column_count();
    let mut rows = statement.query([])?;
    let mut hash = Sha256::new();
    let mut encoded = Vec::new();
    while let Some(row) = rows.next()? {
        encoded.clear();
        for column in 0..width {
            encode(row.get_ref(column)?, &mut encoded);
        }
        hash.update(&encoded);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn encode(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Null => out.push(b'n'),
        ValueRef::Integer(integer) => {
            out.push(b'i');
            out.extend(integer.to_be_bytes());
        }
        ValueRef::Real(real) => {
            out.push(b'r');
            out.extend(real.to_bits().to_be_bytes());
        }
        ValueRef::Text(bytes) => encode_bytes(b't', bytes, out),
        ValueRef::Blob(bytes) => encode_bytes(b'b', bytes, out),
    }
}

fn encode_bytes(letter: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(letter);
    out.extend((bytes.len() as u64).to_be_bytes());
    out.extend(bytes);
}
