//! The names and columns of tables that several modules use.

/// The raw tables: one row for each accepted message.
pub(in crate::store) const RAW_TABLES: [&str; 3] = ["analytics_events", "metrics", "_session_messages"];

/// The public tables with the specification's columns. `digest` hashes these columns; `verify` compares them and takes
/// samples of them. `funnels.created_at` is left
/// out: it says when a definition first reached the database, and does not depend on the messages.
pub(in crate::store) const PUBLIC_TABLES: [(&str, &str); 9] = [
    (
        "analytics_events",
        "id, event_type, event_name, timestamp, session_id, user_id, properties, context, page_url, referrer",
    ),
    (
        "analytics_sessions",
        "id, user_id, started_at, ended_at, duration_ms, event_count, device_type, browser, os, country, city, \
         referrer, landing_page, exit_page",
    ),
    ("dashboard_metrics", "id, widget_id, metric_key, value, previous_value, change_percent, updated_at"),
    ("feature_usage", "id, feature_name, date, usage_count, unique_users, avg_duration_ms, success_rate"),
    (
        "funnel_conversions",
        "id, funnel_id, user_id, session_id, started_at, completed_at, current_step, completed, step_timestamps",
    ),
    ("funnels", "id, name, description, steps"),
    ("metric_aggregates", "id, name, period_start, period_type, count, sum, min, max, avg, p50, p90, p99, tags"),
    ("metrics", "id, name, metric_type, value, timestamp, tags, unit"),
    (
        "user_activity",
        "id, user_id, date, session_count, event_count, total_duration_ms, first_seen_at, last_seen_at, \
         events_breakdown",
    ),
];
