//! `streamgauge migrate`

use super::Failure;
use crate::config::Config;
use crate::store::{self, Lock, Migrations};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Apply the missing migrations; create the file if it does not exist
    Up,
    /// Revert the last migration, and delete all data in its tables
    Down,
    /// List all migrations, and show whether each is applied
    Status,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let path = &config.database_path;
    match args.action {
        Action::Up => {
            let lock = Lock::acquire(path, "migrate up").await?;
            Migrations::of(&lock).up().await?;
            err!("{} is up to date", path.display());
        }
        Action::Down => {
            let lock = Lock::acquire(path, "migrate down").await?;
            match Migrations::of(&lock).down().await? {
                Some(migration) => err!("reverted {} {}", migration.version, migration.description),
                None => err!("nothing to revert"),
            }
        }
        Action::Status => {
            for migration in store::migration_status(path).await? {
                let state = if migration.is_applied { "applied" } else { "missing" };
                out!("{state}  {}  {}", migration.version, migration.description);
            }
        }
    }
    Ok(())
}
