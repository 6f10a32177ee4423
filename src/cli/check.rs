//! `streamgauge check`

use super::Failure;
use crate::config::raw;
use crate::nats;

const HIDDEN: &str = "***";

pub(super) fn execute(mut raw: raw::Config) -> Result<(), Failure> {
    let secrets = [&mut raw.nats.password, &mut raw.nats.nkey, &mut raw.http.token];
    for secret in secrets.into_iter().filter_map(Option::as_mut) {
        HIDDEN.clone_into(secret);
    }
    raw.nats.url = nats::without_secrets(&raw.nats.url);
    out!("{}", toml::to_string(&raw)?.trim_end());
    Ok(())
}
