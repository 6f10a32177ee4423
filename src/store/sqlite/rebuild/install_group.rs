//! Installs a rebuilt group: writes the rows that differ, and nothing else.

use rusqlite::{Transaction, params_from_iter};

use crate::analytics::GroupName;
use crate::store::sqlite::derived::{GroupTable, in_column};

/// Makes the rows of a group in a table equal to the rows in the same table of the file that is attached as `shadow`.
/// Returns the number of rows that differed.
pub(in crate::store) fn install(
    tx: &Transaction<'_>,
    table: &GroupTable,
    group: &GroupName,
) -> rusqlite::Result<usize> {
    let name = table.name;
    // All rows of the table. If several groups share the table, only the rows of this group.
    let shared_by = table.shared_by.and_then(|column| Some((column, in_column(group, column)?)));
    let (of_main, of_built) = match &shared_by {
        Some((column, _)) => (format!("m.{column} = ?1"), format!("b.{column} = ?1")),
        None => ("true".to_owned(), "true".to_owned()),
    };
    let of_group = params_from_iter(shared_by.map(|(_, value)| value));
    let columns: Vec<String> = {
        // `table_info` leaves out generated columns, which somebody may have added.
        let mut select = tx.prepare("SELECT name FROM pragma_table_info(?1, 'main')")?;
        select.query_map([name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    };
    let both = |columns: &mut dyn Iterator<Item = &str>| {
        let equal = columns.map(|column| format!("b.{column} IS NOT DISTINCT FROM m.{column}"));
        equal.collect::<Vec<_>>().join(" AND ")
    };
    let same_key = both(&mut table.key.iter().copied());
    let same_row = both(&mut columns.iter().map(String::as_str));
    // Deletes first: a row that goes may hold the value of a unique index that a new row needs.
    let gone = tx.execute(
        &format!(
            "DELETE FROM main.{name} AS m WHERE {of_main} \
             AND NOT EXISTS (SELECT 1 FROM shadow.{name} b WHERE {same_key})"
        ),
        of_group.clone(),
    )?;
    let others = columns.iter().filter(|column| !table.key.contains(&column.as_str()));
    let set: Vec<_> = others.map(|column| format!("{column} = excluded.{column}")).collect();
    let on_conflict = if set.is_empty() {
        "DO NOTHING".to_owned()
    } else {
        format!("({}) DO UPDATE SET {}", table.key.join(", "), set.join(", "))
    };
    let columns = columns.join(", ");
    let written = tx.execute(
        &format!(
            "INSERT INTO main.{name} ({columns}) SELECT {columns} FROM shadow.{name} b \
             WHERE {of_built} AND NOT EXISTS (SELECT 1 FROM main.{name} m WHERE {same_row}) ON CONFLICT {on_conflict}"
        ),
        of_group,
    )?;
    Ok(gone + written)
}
