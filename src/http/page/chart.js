// Writes numbers into the document: as text, as lists that keep their elements, and as hourly charts.

const HOUR_MS = 3_600_000;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOURS_SHOWN = { '1h': 48, '1d': 48, '7d': 168, '1mo': 744 };
const DASH = '–';

// ---- Text ----

const integer = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const twoDecimals = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const threeDigits = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const roundPercent = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 });
// Always one decimal, so that the width does not jump when the number changes.
const percent = new Intl.NumberFormat(undefined, {
  style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1,
});
const oneDecimal = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumSignificantDigits: 3 });
const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', timeZone: 'UTC' });
const longDay = new Intl.DateTimeFormat(undefined, { dateStyle: 'long', timeZone: 'UTC' });

/** Formats a plain number: integers in full, fractions with at most two decimals, below 1 with three digits. */
export function formatNumber(value) {
  if (value === null || value === undefined) return DASH;
  if (Number.isInteger(value)) return integer.format(value);
  return (Math.abs(value) < 1 ? threeDigits : twoDecimals).format(value);
}

/** Formats a share between 0 and 1 as a percentage. */
export function formatShare(share) {
  return share === null || !Number.isFinite(share) ? DASH : percent.format(share);
}

/** Formats milliseconds in at most two units: `340 ms`, `12.5 s`, `2 m 05 s`, `3 h 20 m`. */
export function formatDuration(ms) {
  if (ms === null || ms === undefined) return DASH;
  if (ms < 0) return `−${formatDuration(-ms)}`;
  if (ms < 999.5) return `${threeDigits.format(ms)} ms`;
  if (ms < 59_950) return `${oneDecimal.format(ms / SECOND_MS)} s`;
  const two = (part) => String(part).padStart(2, '0');
  const seconds = Math.round(ms / SECOND_MS);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`;
  const minutes = Math.round(ms / MINUTE_MS);
  return `${integer.format(Math.floor(minutes / 60))} h ${two(minutes % 60)} m`;
}

/** Formats milliseconds for an axis: leaves out a second unit that is zero. */
const axisDuration = (ms) => (ms === 0 ? '0' : formatDuration(ms).replace(/ 00 [ms]$/, ''));

/** `14:05:11`, from an RFC 3339 time in UTC. All times of the API have this form. */
export const formatTime = (timestamp) => timestamp.slice(11, 19);

/** `22 Nov`. */
export const formatDay = (ms) => day.format(ms);

/** `22 Nov 15:00`. */
export const formatHour = (ms) => `${formatDay(ms)} ${new Date(ms).toISOString().slice(11, 16)}`;

/** `23 November 2026`. */
export const formatDate = (date) => longDay.format(new Date(date));

/** Tells how the values of an expression are formatted, and whether an hour without samples counts as 0. */
export function kindOf(expression) {
  const name = expression.replace(/\{.*\}/s, '');
  const isCount = name === 'users.active' || /\.(count|sum|usage|entered|converted|users)$/.test(name);
  if (name.endsWith('.avg_duration')) return { isCount, unit: '', format: formatDuration, axis: axisDuration };
  if (/^(feature\..*\.success_rate|funnel\..*\.rate)$/s.test(name)) {
    return { isCount, isShare: true, unit: '', format: formatShare, axis: (share) => roundPercent.format(share) };
  }
  const unit = name.endsWith('.per_minute') ? 'a minute' : name.endsWith('.rate') ? 'a second' : '';
  return { isCount, unit, format: formatNumber, axis: (value) => compact.format(value) };
}

// ---- Document ----

/** Copies the elements of a template. Returns the copy and its named parts. */
export function fromTemplate(name) {
  const fragment = document.getElementById(`${name}-template`).content.cloneNode(true);
  const parts = { root: fragment.firstElementChild };
  for (const node of fragment.querySelectorAll('[data-part]')) parts[node.dataset.part] = node;
  return { fragment, parts };
}

/** Writes a text only if it differs: an unchanged node costs no layout and keeps the reader's selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Writes an attribute only if it differs. */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const viewsOf = new WeakMap();

/** Gives an element one child for each item, in order. A child whose key stays is updated, never created again. */
export function showList(parent, items, keyOf, create, update) {
  if (!viewsOf.has(parent)) viewsOf.set(parent, new Map());
  const views = viewsOf.get(parent);
  const keys = new Set(items.map(keyOf));
  for (const [key, view] of views) {
    if (keys.has(key)) continue;
    view.root.remove();
    view.remove?.();
    views.delete(key);
  }
  let next = parent.firstElementChild;
  items.forEach((item, index) => {
    const key = keyOf(item, index);
    let view = views.get(key);
    if (!view) views.set(key, view = create(item));
    if (view.root === next) next = next.nextElementSibling;
    else parent.insertBefore(view.root, next);
    update(view, item, index);
  });
}

/** Returns a `create` function for views that consist of the parts of a template. */
export const partsOf = (template) => () => fromTemplate(template).parts;

// ---- Charts ----

const chartOf = new WeakMap();
// Charts far outside the view are not drawn: a page may have a thousand charts.
const nearView = new IntersectionObserver((entries) => {
  for (const entry of entries) chartOf.get(entry.target).setVisible(entry.isIntersecting);
}, { rootMargin: '200px' });

/** Returns ticks at round steps that cover a range with three or four lines. */
function ticksOf(low, high, kind) {
  // Long durations use tenths of a minute or of an hour as their unit, so that steps are round.
  const isLong = kind.format === formatDuration && high >= MINUTE_MS;
  const unit = !isLong ? 1 : (high < HOUR_MS ? MINUTE_MS : HOUR_MS) / 10;
  const span = (high - low) / unit || Math.abs(high / unit) || 1;
  const power = 10 ** Math.floor(Math.log10(span / 3));
  const rough = [1, 2, 5, 10].find((factor) => factor * power >= (span / 3) * 0.999) * power * unit;
  const step = kind.isCount && Number.isInteger(high) ? Math.max(1, rough) : rough;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(15)));
}

/** Returns the ends of the scale. Zero is included for counts, and for positive values if min is at most max / 2. */
function rangeOf(values, isCount) {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return [0, 1];
  const low = known.reduce((least, value) => Math.min(least, value));
  const high = known.reduce((most, value) => Math.max(most, value));
  const standsOnZero = isCount || (low >= 0 && low <= high / 2);
  return standsOnZero ? [Math.min(0, low), Math.max(0, high)] : [low, high];
}

/** Returns an SVG path through the values. Missing values split it: each run of known values is a separate line. */
function pathOf(values, from, y) {
  let path = '';
  let isDrawing = false;
  values.forEach((value, index) => {
    if (value === null) { isDrawing = false; return; }
    const hasNext = index + 1 < values.length && values[index + 1] !== null;
    // A single point is a line of length 0, which round caps show as a dot.
    path += isDrawing ? `L${from + index} ${y(value)}` : `M${from + index} ${y(value)}${hasNext ? '' : 'h0'}`;
    isDrawing = true;
  });
  return path;
}

/** The chart of one metric, with its readout and its table. */
export class Chart {
  constructor(label, expression, period) {
    const { fragment, parts } = fromTemplate('chart');
    this.fragment = fragment;
    this.parts = parts;
    this.label = label;
    this.kind = kindOf(expression);
    this.hoursShown = HOURS_SHOWN[period] ?? HOURS_SHOWN['1d'];
    this.known = new Map();
    this.newest = null;
    this.hours = [];
    this.values = [];
    this.rows = new Map();
    this.picked = null;
    this.isVisible = false;
    this.isStale = true;
    parts.plot.classList.toggle('is-dense', this.hoursShown > 200);
    parts.plot.setAttribute('aria-label', `${label}, chart by the hour`);
    parts.summary.textContent = `: ${label}, by the hour`;
    parts.scroll.setAttribute('aria-label', `${label}, table by the hour`);
    parts.caption.textContent = `${label} (${expression}), by the hour in UTC, newest first`;
    this.listen();
    chartOf.set(parts.plot, this);
    nearView.observe(parts.plot);
  }

  /** Sets the hours that the server has, oldest first. */
  setHistory(points) {
    this.known = new Map(points.map((point) => [Date.parse(point.start), point.value]));
    if (this.newest) this.known.set(this.newest.start, this.newest.value);
    this.changed();
  }

  /** Replaces or appends the newest hour. */
  setHour(hour) {
    const start = Date.parse(hour.start);
    if (this.newest?.start === start && this.newest.value === hour.value) return;
    this.newest = { start, value: hour.value };
    this.known.set(start, hour.value);
    this.changed();
  }

  /** Ends the use of the chart: otherwise the observer would keep the plot in memory. */
  remove() {
    nearView.unobserve(this.parts.plot);
  }

  setVisible(isVisible) {
    this.isVisible = isVisible;
    if (isVisible) this.drawIfStale();
  }

  drawIfStale() {
    if (this.isStale) this.draw();
  }

  changed() {
    this.isStale = true;
    if (this.isVisible) this.draw();
    if (this.parts.details.open) this.fillTable();
  }

  /** Puts the known hours on an even scale that ends with the newest hour. */
  arrange() {
    let last = this.newest?.start ?? 0;
    for (const start of this.known.keys()) last = Math.max(last, start);
    const first = last - (this.hoursShown - 1) * HOUR_MS;
    for (const start of this.known.keys()) if (start < first) this.known.delete(start);
    this.hours = this.known.size === 0 ? [] : Array.from({ length: this.hoursShown }, (_, i) => first + i * HOUR_MS);
    const missing = this.kind.isCount ? 0 : null;
    this.values = this.hours.map((start) => this.known.get(start) ?? missing);
  }

  draw() {
    this.isStale = false;
    this.arrange();
    const { parts, values, kind } = this;
    // A share is always between 0 and 1.
    const ticks = kind.isShare ? [0, 0.5, 1] : ticksOf(...rangeOf(values, kind.isCount), kind);
    const low = ticks[0];
    const high = ticks[ticks.length - 1];
    const span = high - low || 1;
    this.share = (value) => (high - value) / span;
    const y = (value) => (1000 * this.share(value)).toFixed(1);
    const last = Math.max(values.length - 1, 1);
    parts.svg.setAttribute('viewBox', `0 0 ${last} 1000`);
    parts.grid.setAttribute('d', ticks.map((tick) => `M0 ${y(tick)}H${last}`).join(''));
    parts.line.setAttribute('d', pathOf(values.slice(0, -1), 0, y));
    // The newest hour is not complete: the line to it is dashed.
    parts['current-hour'].setAttribute('d', pathOf(values.slice(-2), Math.max(values.length - 2, 0), y));
    const points = kind.isCount ? values.map((value, index) => `${index} ${y(value)}`) : [];
    parts.area.setAttribute('d', points.length > 0 ? `M0 ${y(0)}L${points.join('L')}L${last} ${y(0)}Z` : '');
    this.drawAxes(ticks);
    this.showReadout();
  }

  drawAxes(ticks) {
    const { parts, hours } = this;
    const axis = parts['y-axis'];
    while (axis.childElementCount < ticks.length) axis.append(document.createElement('span'));
    while (axis.childElementCount > ticks.length) axis.lastElementChild.remove();
    const isShown = hours.length > 0;
    const hasValues = this.values.some((value) => value !== null);
    [...ticks].reverse().forEach((tick, index) => setText(axis.children[index], hasValues ? this.kind.axis(tick) : ''));
    const middle = hours[Math.floor(hours.length / 2)];
    setText(parts['x-first'], isShown ? formatHour(hours[0]) : '');
    setText(parts['x-middle'], isShown ? formatHour(middle) : '');
    setText(parts['x-last'], isShown ? `${formatHour(hours[hours.length - 1])} UTC` : '');
    setAttribute(parts.plot, 'aria-valuemax', Math.max(hours.length - 1, 0));
  }

  /** Shows the hour under the pointer or chosen by key; without such an hour, the extremes. */
  showReadout() {
    const { parts, hours, values, kind } = this;
    const at = this.picked === null ? -1 : hours.indexOf(this.picked);
    parts.cursor.hidden = at < 0;
    parts.dot.hidden = at < 0 || values[at] === null;
    const shown = at < 0 ? hours.length - 1 : at;
    setAttribute(parts.plot, 'aria-valuenow', Math.max(shown, 0));
    setAttribute(parts.plot, 'aria-valuetext', shown < 0 ? 'no samples' : this.describe(shown));
    if (at >= 0) {
      const left = `${(100 * at) / Math.max(hours.length - 1, 1)}%`;
      parts.cursor.style.left = left;
      parts.dot.style.left = left;
      if (values[at] !== null) parts.dot.style.top = `${100 * this.share(values[at])}%`;
      setText(parts.readout, this.describe(at));
      return;
    }
    const known = values.filter((value) => value !== null);
    const extreme = (pick) => kind.format(known.reduce((best, value) => pick(best, value)));
    setText(parts.readout, known.length === 0 ? 'No samples to chart'
      : `By the hour: least ${extreme(Math.min)}, most ${extreme(Math.max)}`);
  }

  describe(index) {
    const value = this.values[index];
    const text = value === null ? 'no samples' : `${this.kind.format(value)} ${this.kind.unit}`.trim();
    return `${formatHour(this.hours[index])} UTC: ${text}${index === this.hours.length - 1 ? ' so far' : ''}`;
  }

  pick(index) {
    this.picked = this.hours[Math.min(Math.max(index, 0), this.hours.length - 1)] ?? null;
    this.showReadout();
  }

  listen() {
    const { plot, details } = this.parts;
    const underPointer = (event) => {
      const box = plot.getBoundingClientRect();
      this.pick(Math.round(((event.clientX - box.left) / box.width) * (this.hours.length - 1)));
    };
    const unpick = () => { this.picked = null; this.showReadout(); };
    plot.addEventListener('pointermove', underPointer);
    plot.addEventListener('pointerdown', underPointer);
    plot.addEventListener('pointerleave', () => { if (document.activeElement !== plot) unpick(); });
    plot.addEventListener('focus', () => { if (this.picked === null) this.pick(this.hours.length - 1); });
    plot.addEventListener('blur', unpick);
    plot.addEventListener('keydown', (event) => this.onKey(event));
    details.addEventListener('toggle', () => { if (details.open) this.fillTable(); });
  }

  onKey(event) {
    const last = this.hours.length - 1;
    const at = this.picked === null ? last : this.hours.indexOf(this.picked);
    const targets = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageDown: at - 24, PageUp: at + 24, Home: 0, End: last,
    };
    if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in targets)) return;
    event.preventDefault();
    this.pick(targets[event.key]);
  }

  /** Updates the open table. Existing rows stay, so that the reader does not lose the place. */
  fillTable() {
    this.arrange();
    const body = this.parts.rows;
    const shown = new Set(this.hours);
    for (const [start, row] of this.rows) {
      if (!shown.has(start)) { row.remove(); this.rows.delete(start); }
    }
    this.hours.forEach((start, index) => {
      let row = this.rows.get(start);
      if (!row) {
        row = document.createElement('tr');
        row.append(document.createElement('th'), document.createElement('td'));
        row.firstChild.scope = 'row';
        row.firstChild.textContent = formatHour(start);
        this.rows.set(start, row);
      }
      // The table is newest first, but the hours are oldest first: each row goes before the previous one.
      const next = index > 0 ? this.rows.get(this.hours[index - 1]) : null;
      if (row.parentNode !== body || row.nextSibling !== next) body.insertBefore(row, next);
      const value = this.values[index];
      setText(row.lastChild, value === null ? 'no samples' : this.kind.format(value));
    });
  }
}
