// The live page: follows /api/stream, and updates the document in place with each snapshot.
//
//   EventSource -> connection state -> show(snapshot) -> strip, widgets, funnels, tops, gaps
//                                   -> /api/history    -> charts

import {
  Chart, formatDate, formatDay, formatDuration, formatHour, formatNumber, formatShare, formatTime, fromTemplate,
  kindOf, partsOf, setAttribute, setText, showList,
} from '/chart.js';

// The server sends a snapshot about every 5 s or more often, so after 12 s two signs of life are missing.
const SILENCE_MS = 12_000;
const CHECK_MS = 1000;
const BACKOFF_MIN_MS = 1000;
const BACKOFF_MAX_MS = 10_000;
const HISTORY_PAUSE_MS = 10_000;
const HISTORY_LIMIT_MS = 30_000;
const PERIODS = {
  '1h': { now: 'this hour', before: 'hour before' },
  '1d': { now: 'today (UTC)', before: 'day before' },
  '7d': { now: 'this week (UTC)', before: 'week before' },
  '1mo': { now: 'this month (UTC)', before: 'month before' },
};

const byId = (id) => document.getElementById(id);
const plural = (count, one, many) => `${formatNumber(count)} ${count === 1 ? one : many}`;

// ---- Numbers and bars ----

function showValue(node, value, text) {
  setAttribute(node, 'data-value', value ?? '');
  setText(node, text);
}

function showBar(parts, share) {
  const width = `${Math.min(100, 100 * (share || 0)).toFixed(2)}%`;
  if (parts.bar.style.width !== width) parts.bar.style.width = width;
}

// ---- Strip, rebuilds and gaps ----

function showField(name, value, text = formatNumber(value), isTrouble = false) {
  const node = document.querySelector(`[data-field="${name}"]`);
  showValue(node, value, text);
  node.classList.toggle('is-trouble', isTrouble);
}

function showStrip(snapshot) {
  const { streams } = snapshot;
  const isLagKnown = streams.length > 0 && streams.every((stream) => stream.lag !== null);
  const lag = isLagKnown ? streams.reduce((sum, stream) => sum + stream.lag, 0) : null;
  const rate = snapshot.messages_per_second;
  showField('messages_per_second', rate, formatNumber(rate >= 100 ? Math.round(rate) : Math.round(rate * 10) / 10));
  showField('lag', lag, lag === null ? 'unknown' : formatNumber(lag));
  // Usually there is one stream. If there are more, each position follows the name of its stream.
  const positions = streams.map((stream) => formatNumber(stream.applied_seq));
  const named = streams.map((stream, index) => `${stream.name} ${positions[index]}`).join(', ');
  showField('applied_seq', streams.map((stream) => stream.applied_seq).join(' '),
    streams.length > 1 ? named : positions[0] ?? '–');
  showField('dead_letters', snapshot.dead_letters, undefined, snapshot.dead_letters > 0);
  showField('gaps', snapshot.gaps, undefined, snapshot.gaps > 0);
  showField('open_sessions', snapshot.open_sessions);
}

function showRebuilding(groups) {
  byId('rebuilding').hidden = groups.length === 0;
  showList(byId('rebuilding-list'), groups, ({ group }) => group, partsOf('rebuilding'), (parts, item) => {
    const share = item.rows_total > 0 ? item.rows_done / item.rows_total : 0;
    const rows = `${formatNumber(item.rows_done)} of ${plural(item.rows_total, 'row', 'rows')}`;
    setText(parts.text, `${item.group}: ${rows} (${formatShare(share)})`);
    setAttribute(parts.progress, 'aria-label', `Rebuilding ${item.group}`);
    parts.progress.value = share;
  });
}

function showGaps(snapshot) {
  const ranges = snapshot.gap_ranges;
  byId('gaps').hidden = ranges.length === 0 && snapshot.gaps === 0;
  const more = ranges.length < snapshot.gaps ? `; ${formatNumber(ranges.length)} of them are listed` : '';
  const messages = plural(snapshot.missing_messages, 'message is', 'messages are');
  setText(byId('gaps-summary'), `${plural(snapshot.gaps, 'gap', 'gaps')}, ${messages} missing${more}.`);
  const keyOf = (gap) => JSON.stringify([gap.stream, gap.epoch, gap.first_seq]);
  showList(byId('gap-list'), ranges, keyOf, partsOf('gap'), (parts, gap) => {
    const first = formatNumber(gap.first_seq);
    setText(parts.sequences, gap.first_seq === gap.last_seq ? first : `${first} to ${formatNumber(gap.last_seq)}`);
    setText(parts.stream, gap.epoch > 1 ? `${gap.stream}, epoch ${gap.epoch}` : gap.stream);
    setText(parts.messages, formatNumber(gap.last_seq - gap.first_seq + 1));
    setText(parts.reason, gap.reason);
    setText(parts.found, `${formatDate(gap.found_at)}, ${formatTime(gap.found_at)}`);
  });
}

// ---- Widgets ----

const charts = new Map();
const chartKey = (widgetId, metricKey) => `${widgetId}/${metricKey}`;

function createWidget(widget) {
  const { parts } = fromTemplate('widget');
  parts.root.dataset.widget = widget.id;
  parts.title.id = `title-of-${widget.id}`;
  parts.root.setAttribute('aria-labelledby', parts.title.id);
  return { ...parts, remove: () => showList(parts.metrics, [], metricId, null, null) };
}

// The key of a metric includes its expression: a changed expression needs a new chart, with other hours and units.
const metricId = (metric) => JSON.stringify([metric.key, metric.expression]);

function createMetric(widget, metric) {
  const { parts } = fromTemplate('metric');
  const chart = new Chart(`${widget.title ?? widget.id}, ${metric.key}`, metric.expression, widget.period);
  const key = chartKey(widget.id, metric.key);
  parts.root.dataset.metric = metric.key;
  parts.key.textContent = metric.key;
  parts.expression.textContent = metric.expression;
  // The card shows one line. The title and the caption of the table hold the whole expression.
  parts.expression.title = metric.expression;
  parts.chart.replaceWith(chart.fragment);
  charts.set(key, chart);
  const remove = () => { chart.remove(); if (charts.get(key) === chart) charts.delete(key); };
  return { ...parts, chart, kind: kindOf(metric.expression), remove };
}

/** Compares a value with the previous one: an arrow for the eye, words for everybody. */
function describeChange(metric, kind, before) {
  const { value, previous_value: previous, change_percent: change } = metric;
  if (previous === null) return ['', 'none', `no samples in the ${before}`];
  const was = `the ${before} (${kind.format(previous)})`;
  if (value === null) return ['', 'none', `no comparison with ${was}`];
  if (value === previous) return ['=', 'same', `the same as ${was}`];
  const isUp = value > previous;
  const by = change === null ? '' : `${formatShare(Math.abs(change) / 100)} `;
  return [isUp ? '▲' : '▼', isUp ? 'up' : 'down', `${by}${isUp ? 'above' : 'below'} ${was}`];
}

function describePosition(metric) {
  const positions = Object.entries(metric.as_of).map(([stream, sequence]) => `${stream} ${formatNumber(sequence)}`);
  const changed = metric.updated_at ? `, changed ${metric.updated_at.slice(11, 16)} UTC` : '';
  return positions.length === 0 ? '' : `exact up to ${positions.join(', ')}${changed}`;
}

function updateMetric(view, metric, before) {
  const [arrow, direction, text] = describeChange(metric, view.kind, before);
  showValue(view.value, metric.value, view.kind.format(metric.value));
  setText(view.unit, metric.value === null ? 'no samples' : view.kind.unit);
  setText(view.arrow, arrow);
  setText(view['change-text'], text);
  setAttribute(view.change, 'data-direction', direction);
  setText(view.exact, describePosition(metric));
  view.frozen.hidden = !metric.is_frozen;
  view.chart.setHour(metric.hour);
}

function updateWidget(view, widget) {
  const { now, before } = PERIODS[widget.period] ?? { now: widget.period, before: 'period before' };
  setText(view.title, widget.title ?? widget.id);
  setText(view.period, now);
  // The width of a card follows the number of its metrics, so that rows are filled. The style sheet does the rest.
  view.root.style.setProperty('--metrics', Math.min(widget.metrics.length, 4));
  showList(view.metrics, widget.metrics, metricId, (metric) => createMetric(widget, metric),
    (metricView, metric) => updateMetric(metricView, metric, before));
}

function showWidgets(widgets) {
  byId('widgets').hidden = false;
  byId('no-widgets').hidden = widgets.length > 0;
  showList(byId('widget-list'), widgets, ({ id, period }) => `${id}/${period}`, createWidget, updateWidget);
}

// ---- Funnels ----

function createFunnel(funnel) {
  const { parts } = fromTemplate('funnel');
  parts.root.dataset.funnel = funnel.name;
  return parts;
}

function updateFunnel(parts, funnel) {
  const entered = funnel.steps[0]?.reached ?? 0;
  const share = entered > 0 ? ` (${formatShare(funnel.converted / entered)} of ${formatNumber(entered)} entered)` : '';
  setText(parts.name, funnel.name);
  setText(parts.since, `since ${formatHour(Date.parse(funnel.since))} UTC`);
  setText(parts.description, funnel.description ?? '');
  parts.description.hidden = !funnel.description;
  setText(parts.converted, formatNumber(funnel.converted));
  setText(parts['converted-text'], `converted${share}`);
  setText(parts.caption, `Steps of the funnel ${funnel.name}`);
  showList(parts.steps, funnel.steps, (_, index) => index, partsOf('step'), (step, { name, reached }, index) => {
    const previous = index > 0 ? funnel.steps[index - 1].reached : null;
    setAttribute(step.root, 'data-step', name);
    setAttribute(step.root, 'data-value', reached);
    setText(step.name, name);
    setText(step.reached, formatNumber(reached));
    setText(step['of-entered'], entered > 0 ? formatShare(reached / entered) : '–');
    setText(step['of-previous'], previous ? formatShare(reached / previous) : '–');
    showBar(step, reached / entered);
  });
}

function showFunnels(funnels) {
  byId('funnels').hidden = funnels.length === 0;
  showList(byId('funnel-list'), funnels, ({ name }) => name, createFunnel, updateFunnel);
}

// ---- Top events and features ----

const TOP_EVENTS = { name: 'top-events', row: 'event', nameOf: (of) => of.event_name, countOf: (of) => of.count };
const TOP_FEATURES = {
  name: 'top-features', row: 'feature', nameOf: (of) => of.feature_name, countOf: (of) => of.usage_count,
};

function showTable({ name, row, nameOf, countOf }, items, update) {
  const table = byId(name);
  const most = Math.max(1, ...items.map(countOf));
  table.hidden = items.length === 0;
  byId(`no-${name}`).hidden = items.length > 0;
  showList(table.tBodies[0], items, nameOf, partsOf(row), (parts, item) => {
    setText(parts.name, nameOf(item));
    showBar(parts, countOf(item) / most);
    update(parts, item);
  });
}

function showTops(snapshot) {
  byId('tops').hidden = snapshot.date === null;
  if (snapshot.date === null) return;
  for (const node of document.querySelectorAll('#tops caption [data-part=date]')) {
    setText(node, `${formatDate(snapshot.date)} (UTC)`);
  }
  showTable(TOP_EVENTS, snapshot.top_events, (parts, event) => setText(parts.count, formatNumber(event.count)));
  showTable(TOP_FEATURES, snapshot.top_features, (parts, usage) => {
    setText(parts.uses, formatNumber(usage.usage_count));
    setText(parts.users, formatNumber(usage.unique_users));
    setText(parts.duration, formatDuration(usage.avg_duration_ms));
    setText(parts.success, formatShare(usage.success_rate));
  });
}

// ---- History ----

let historyOf = null;
let historyAt = -Infinity;
let isHistoryUnderWay = false;
let connections = 0;

/** Names what the older hours of charts depend on: connection, metrics, rebuilds, and the hour of the data. */
function historyKey(snapshot) {
  const metrics = snapshot.widgets.flatMap((widget) => widget.metrics.map(
    (metric) => `${widget.id}/${widget.period}/${metric.key}/${metric.expression}/${metric.is_frozen}`));
  return `${connections} ${snapshot.t?.slice(0, 13)} ${metrics.join(' ')}`;
}

/** Fetches the history if its key has changed. The pause matters in a backlog, when the hour changes often. */
async function followHistory(snapshot) {
  const wanted = historyKey(snapshot);
  if (wanted === historyOf || isHistoryUnderWay || Date.now() - historyAt < HISTORY_PAUSE_MS) return;
  isHistoryUnderWay = true;
  historyAt = Date.now();
  try {
    const response = await fetch('/api/history', { cache: 'no-store', signal: AbortSignal.timeout(HISTORY_LIMIT_MS) });
    if (response.status === 401) return askForToken();
    if (!response.ok) return;
    const { widgets } = await response.json();
    for (const [id, metrics] of Object.entries(widgets)) {
      for (const [key, points] of Object.entries(metrics)) charts.get(chartKey(id, key))?.setHistory(points);
    }
    historyOf = wanted;
  } catch {
    // The event stream reports a lost server. The next snapshot tries again.
  } finally {
    isHistoryUnderWay = false;
  }
}

/** Makes the history due at once after a new connection, even if an older answer is still to come. */
function forgetHistory() {
  connections += 1;
  historyAt = -Infinity;
}

// ---- Connection ----

const STATE_WORDS = { connecting: 'Connecting', live: 'Live', stale: 'Not live' };
let source = null;
let backoffMs = BACKOFF_MIN_MS;
let retryTimer = null;
let heardAt = Date.now();
let attemptAt = Date.now();

/** Shows the state, and announces each change once to screen readers. */
function setState(state, detail = '') {
  if (document.body.dataset.state !== state) document.body.dataset.state = state;
  const words = STATE_WORDS[state];
  const since = `${words} since ${formatTime(new Date(heardAt).toISOString())} UTC: reconnecting`;
  const title = `${words} – Streamgauge`;
  if (document.title !== title) document.title = title;
  setText(byId('connection'), words);
  setText(byId('status'), state === 'stale' ? since : words + detail);
}

/** Loads `/` again: without a valid token, the server answers with the login form. */
const askForToken = () => location.replace('/');

function show(snapshot) {
  const rebuilding = snapshot.rebuilding.map(({ group }) => group).join(', ');
  const detail = (snapshot.nats_connected ? '' : ', but without NATS') + (rebuilding && `, rebuilding ${rebuilding}`);
  byId('nats-banner').hidden = snapshot.nats_connected;
  byId('no-data').hidden = snapshot.t !== null;
  setText(byId('version'), `version ${snapshot.version}`);
  setText(byId('watermark'), snapshot.t
    ? `data up to ${formatDay(Date.parse(snapshot.t))} ${formatTime(snapshot.t)} UTC` : 'no data yet');
  showRebuilding(snapshot.rebuilding);
  showStrip(snapshot);
  showWidgets(snapshot.widgets);
  showFunnels(snapshot.funnels);
  showTops(snapshot);
  showGaps(snapshot);
  followHistory(snapshot);
  setState('live', detail);
}

function connect() {
  clearTimeout(retryTimer);
  retryTimer = null;
  attemptAt = Date.now();
  source?.close();
  source = new EventSource('/api/stream');
  source.addEventListener('open', forgetHistory);
  source.addEventListener('snapshot', (event) => {
    // A snapshot counts as heard only after it was shown: a page that cannot show it must not be called live.
    show(JSON.parse(event.data));
    heardAt = Date.now();
    backoffMs = BACKOFF_MIN_MS;
  });
  source.addEventListener('error', () => {
    setState('stale');
    // An EventSource reconnects by itself after a lost connection. An answer other than 200 closes it.
    if (source.readyState === EventSource.CLOSED) reconnectLater();
  });
}

function reconnectLater() {
  if (retryTimer !== null) return;
  retryTimer = setTimeout(reconnect, backoffMs);
  backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS);
}

/** Asks for the HTTP status first, because an EventSource does not tell why it was closed. Then connects again. */
async function reconnect() {
  const probe = new AbortController();
  const timer = setTimeout(() => probe.abort(), SILENCE_MS);
  try {
    const response = await fetch('/api/stream', { cache: 'no-store', signal: probe.signal });
    if (response.status === 401) return askForToken();
  } catch {
    // No server answers. The next EventSource fails in the same way.
  } finally {
    clearTimeout(timer);
    probe.abort();
  }
  connect();
}

/** Replaces a silent connection: after a computer's sleep, a connection can be dead without an error. */
function checkSilence() {
  if (Date.now() - Math.max(heardAt, attemptAt) < SILENCE_MS || retryTimer !== null) return;
  setState('stale');
  source.close();
  reconnectLater();
}

// Draws all charts before printing: on paper all are in view.
addEventListener('beforeprint', () => { for (const chart of charts.values()) chart.drawIfStale(); });
connect();
setInterval(checkSilence, CHECK_MS);
