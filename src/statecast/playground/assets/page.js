/* The page: a scene, its controls, and the forecast that engine.js computes from it.
 *
 * A scene is what a link holds: the observations `y` and `past`, `until`, and one or two sides, a
 * and b, each with its static features and its future covariates. A change of the scene is drawn in
 * the next frame.
 */
"use strict";

const $ = (id) => document.getElementById(id);
const SIDES = ["a", "b"];
const ALIKE = 12; // training items in the chart, at most
const PATHS = 6; // sample paths in the chart
const DRAWN = 16; // sample paths that are drawn, at least
const STEPS = 10000; // of a forecast, at most
const BANDS = [[0, 10, 0.13], [1, 9, 0.16], [2, 8, 0.16], [3, 7, 0.18], [4, 6, 0.2]];
const CELL_NAMES = { lstm: "LSTM", gru: "GRU", simple_rnn: "RNN" };
const SAID_AFTER = 700; // milliseconds after the last change

// -- elements -------------------------------------------------------------------------------------

/** An element with attributes and children. A handler is an attribute that is a function. */
function element(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") found.addEventListener(key, value);
    else if (key === "style") found.style.cssText = value; // the policy forbids the attribute
    else if (key in found && typeof value !== "string") found[key] = value;
    else found.setAttribute(key, value);
  }
  found.append(...children);
  return found;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
const faded = (name, alpha) => `color-mix(in srgb, ${colour(name)} ${100 * alpha}%, transparent)`;

const faults = {}; // what is wrong, by its source

/** Show what is wrong; an empty message if nothing is any more. */
function complain(source, message) {
  faults[source] = message;
  $("fault").textContent = Object.values(faults).filter((each) => each !== "").join(" ");
  $("fault").hidden = $("fault").textContent === "";
}

/** A number in few digits; `grain` is a difference that is still seen. */
function written(value, grain) {
  if (!Number.isFinite(value)) return "–";
  const digits = clip(-Math.floor(Math.log10(grain)), 0, 12);
  const text = Math.abs(value) >= 1e9 || digits > 8 ? value.toPrecision(5)
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return text.replace("-", "−");
}

/** A round number near `size`: 1, 2 or 5 times a power of ten. */
function roundSize(size) {
  const power = 10 ** Math.floor(Math.log10(size));
  return [1, 2, 5].findLast((each) => each * power <= size * 1.0001) * power;
}

/** Uniform random numbers: the same for a position and a path in every forecast, so that two
 *  forecasts differ by the scene alone (Mulberry32). */
function random(position, path, use) {
  let t = (position * 7919 + path * 104729 + use * 15485863 + 0x6d2b79f5) | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  t = Math.imul(t ^ (t >>> 13), 0x5bd1e995);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

// -- dates: tables/dates.py -----------------------------------------------------------------------

const DAY = 86400000; // milliseconds

/** The dates of steps. A date is in milliseconds, on the clock that steps are counted on. */
class Dates {
  constructor({ dates, closed, zone }) {
    Object.assign(this, dates, { slots: closed, zone });
    this.daily = this.unit === "months" || this.count % (DAY * 1000) === 0;
  }

  /** The date of a text as fields have it, or null. */
  read(text) {
    if (typeof text !== "string") return null;
    const found = Date.parse(`${text.length > 10 ? text.slice(0, 16) : `${text}T00:00`}Z`);
    return Number.isFinite(found) ? found : null;
  }

  write(date) {
    return new Date(date).toISOString().slice(0, this.daily ? 10 : 16);
  }

  /** The date of a step, from 0, of an item that begins at a date. */
  at(begin, step) {
    if (this.unit === "microseconds") return begin + step * this.count / 1000;
    const first = new Date(begin);
    const [year, month] = [first.getUTCFullYear(), first.getUTCMonth()];
    const last = (each) => new Date(Date.UTC(year, each + 1, 0)).getUTCDate();
    let day = first.getUTCDate();
    if (this.day !== null && day === Math.min(this.day, last(month))) day = this.day;
    const then = month + step * this.count;
    return Date.UTC(year, then, Math.min(day, last(then))) + (begin % DAY + DAY) % DAY;
  }

  /** Whether training items were never observed at such dates. */
  closed(date) {
    let local = new Date(date);
    if (this.clock === "absolute" && this.zone !== null) {
      local = new Date(`${local.toLocaleString("sv", { timeZone: this.zone }).replace(" ", "T")}Z`);
    }
    const [weekday, hour] = [(local.getUTCDay() + 6) % 7, local.getUTCHours()];
    const { weekdays, hours, week_hours: weekHours, months } = this.slots;
    return weekdays.includes(weekday) || hours.includes(hour)
      || weekHours.includes(24 * weekday + hour) || months.includes(local.getUTCMonth());
  }
}

// -- the scene ------------------------------------------------------------------------------------

/** Read and check scenes of a model. */
class Scenes {
  constructor(model, targets) {
    Object.assign(this, { model, targets });
    this.dates = model.steps.dates === null ? null : new Dates(model.steps);
    const words = model.static.categorical.concat(model.future.categorical, model.past.categorical)
      .flatMap(({ codes }) => Object.keys(codes));
    this.other = "(new)"; // a category that no column has
    while (words.includes(this.other)) this.other += "'";
  }

  /** The cells of columns: of `given` where it has good ones, otherwise the usual ones. */
  cells({ numeric, categorical }, given = {}, usual = true) {
    const found = {};
    for (const { name, start } of numeric) {
      const value = given?.[name];
      found[name] = value === null || Number.isFinite(value) ? value : usual ? start : null;
    }
    for (const { name, codes } of categorical) {
      const [value, [first]] = [given?.[name], Object.keys(codes)];
      const known = value === null || value === this.other
        || (typeof value === "string" && Object.hasOwn(codes, value));
      found[name] = known ? value : usual ? first ?? null : null;
    }
    return found;
  }

  /** A scene from what a link or a server gave, which may be anything. Returns it with the fields
   *  that were left out. */
  read(given) {
    const [wrong, asked] = [[], given !== null && typeof given === "object" ? given : {}];
    const rows = (value) => (Array.isArray(value) ? value.slice(0, STEPS) : []);
    const until = Number.isInteger(asked.until) && asked.until >= 1 && asked.until <= STEPS
      ? asked.until : this.model.steps.longest;
    if (asked.until !== undefined && until !== asked.until) wrong.push("until");
    const date = this.dates?.read(asked.begin) ?? null;
    const begin = date === null ? null : this.dates.write(date);
    if (begin === null && (asked.begin ?? null) !== null) wrong.push("begin");
    const y = rows(asked.y).map((row) => this.targets.map((target, i) => {
      const value = Array.isArray(row) ? row[i] : row;
      if (value === null || value === undefined || target.takes(value)) return value ?? null;
      if (!wrong.includes("y")) wrong.push("y");
      return null;
    }));
    while (y.length && y.at(-1).every((value) => value === null)) y.pop();
    const side = (own) => {
      const found = { static: this.cells(this.model.static, own?.static), future: [] };
      const asked = Object.entries(own?.static ?? {});
      if (!asked.every(([name, value]) => found.static[name] === value)) wrong.push("static");
      if (this.model.network.future) {
        const steps = Math.max(rows(own?.future).length, until);
        const each = (step) => this.cells(this.model.future, own?.future?.[step]);
        found.future = Array.from({ length: steps }, (_, step) => each(step));
      }
      return found;
    };
    const past = !this.model.network.past ? [] : y.map((_, step) => (
      this.cells(this.model.past, rows(asked.past)[step], false)));
    const scene = {
      y,
      past,
      until,
      begin,
      sides: (asked.sides?.length === 2 ? asked.sides : [asked.sides?.[0]]).map(side),
      paths: asked.paths === true,
      alike: asked.alike !== false,
    };
    return { scene, wrong };
  }

  fromLink() {
    if (!location.hash.startsWith("#scene=")) return { scene: this.read({}).scene, wrong: [] };
    try {
      return this.read(JSON.parse(decodeURIComponent(location.hash.slice(7))));
    } catch {
      return { scene: this.read({}).scene, wrong: ["all of it"] };
    }
  }

  link(scene) {
    return `#scene=${encodeURIComponent(JSON.stringify(scene))}`;
  }
}

// -- the chart of one target ----------------------------------------------------------------------

class Chart {
  /** `index` is that of the target. `page` has the scene and is told of changes. */
  constructor(page, index, place) {
    Object.assign(this, { page, index, target: page.engine.targets[index], points: new Map(),
      range: [0, 1] });
    const several = page.engine.count > 1;
    this.box = element("div", { class: "chart", role: "group" });
    if (several) this.box.append(element("h2", {}, this.target.name));
    place.append(this.box);
    // From the lowest: the fans, the training items, the paths, the medians.
    this.series = [{}];
    this.places = {};
    const add = (name, count, options) => {
      this.places[name] = this.series.length;
      for (let i = 0; i < count; i++) {
        this.series.push({ points: { show: false }, spanGaps: true, ...options });
      }
    };
    const sides = [...SIDES].reverse();
    const bands = [];
    for (const side of sides) {
      add(`${side}-fan`, page.engine.levels.length, { stroke: "transparent", width: 0 });
      const first = this.places[`${side}-fan`];
      for (const [low, high, alpha] of BANDS) {
        bands.push({ series: [first + high, first + low], fill: () => faded(side, alpha) });
      }
    }
    add("alike", ALIKE, { stroke: () => faded("grey", 0.6), width: 1 });
    for (const side of sides) {
      add(`${side}-paths`, PATHS, { stroke: () => faded(side, 0.75), width: 1 });
    }
    for (const side of sides) add(`${side}-median`, 1, { stroke: () => colour(side), width: 2.5 });
    const axis = { stroke: () => colour("quiet"), font: "12px system-ui, sans-serif",
      grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false } };
    const named = { label: page.unit, labelSize: 20, labelFont: axis.font };
    const whole = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000];
    this.plot = new uPlot({
      ...this.size(),
      padding: [several ? 28 : 12, 14, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        // With `move`, uPlot takes a click for a drag, and would stop it.
        drag: { x: false, y: false, click: () => {} },
        points: { show: false },
        move: (plot, left, top) => [ // to the nearest step
          left < 0 ? left : plot.valToPos(Math.round(plot.posToVal(left, "x")), "x"), top],
      },
      scales: { x: { time: false, range: () => this.across() }, y: { range: () => this.range } },
      series: this.series,
      bands,
      axes: [
        { ...axis, ...(index === page.engine.count - 1 ? named : {}), incrs: whole, size: 34,
          space: page.dates ? 96 : 50,
          values: (_, numbers) => numbers.map((number) => this.tick(number)) },
        { ...axis,
          size: (_, texts) => 14 + 7 * Math.max(3, ...(texts ?? []).map((text) => text.length)) },
      ],
      hooks: { draw: [() => this.place()], setCursor: [() => this.hovered()] },
    }, this.data(), this.box);
    this.over = this.plot.over;
    this.over.addEventListener("click", (event) => this.clicked(event));
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.box);
  }

  size() {
    return { width: this.box.clientWidth, height: this.box.clientHeight };
  }

  number(step) {
    return step + this.page.model.steps.first;
  }

  tick(number) {
    const step = number - this.page.model.steps.first;
    return this.page.scene.begin === null ? String(number) : this.page.step(step);
  }

  across() {
    const { until, y } = this.page.scene;
    const last = Math.max(until, y.length, 2) - 1;
    return [this.number(0) - 0.02 * last, this.number(last) + 0.02 * last];
  }

  /** The range of y: that of training, and all that is shown. While a point is dragged it grows
   *  only, so that the chart does not move under the pointer. */
  upright() {
    const { target } = this;
    const last = Math.max(this.page.scene.until, 1);
    let [low, high] = [Infinity, -Infinity];
    const see = (value) => {
      if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
    };
    for (let step = 0; step < Math.min(last, target.steps); step++) {
      if (!target.observed[step]) continue;
      for (const z of [-1.8, 1.8]) see(target.value(target.onLine(z, step)));
    }
    for (const { quantiles } of this.shown.sides) quantiles.forEach(see);
    for (const [value] of this.observed()) see(value);
    const margin = 0.04 * Math.max(high - low, 1e-9 * Math.max(Math.abs(low), 1));
    [low, high] = [low - margin, high + margin];
    if (target.low !== null && low < target.low) low = target.low - margin / 2;
    if (this.dragging) {
      const [before, after] = this.range;
      [low, high] = [Math.min(low, before), Math.max(high, after)];
    }
    return [low, high];
  }

  observed() {
    return this.page.scene.y.flatMap((row, step) => (
      row[this.index] === null ? [] : [[row[this.index], step]]));
  }

  get grain() {
    const [low, high] = this.range;
    return this.target.transform === "counts" ? 1 : roundSize((high - low) / 300);
  }

  /** The arrays of the series; `shown` is what `draw` was given. */
  data() {
    const steps = Math.max(this.page.scene.until, this.page.scene.y.length);
    const x = Array.from({ length: steps }, (_, step) => this.number(step));
    const empty = new Array(steps).fill(null);
    const data = [x, ...this.series.slice(1).map(() => empty)];
    if (!this.shown) return data;
    const filled = (of) => x.map((_, step) => {
      const value = of(step);
      return value === undefined || Number.isNaN(value) ? null : value;
    });
    this.shown.alike.forEach((values, i) => {
      data[this.places.alike + i] = filled((step) => values[step]);
    });
    this.shown.sides.forEach(({ known, quantiles, paths }, i) => {
      const size = this.page.engine.levels.length;
      // The forecast begins at the last observation.
      const begin = known ? this.page.scene.y[known - 1][this.index] ?? undefined : undefined;
      const from = (values) => filled((step) => (
        step === known - 1 ? begin : this.page.closed(step) ? NaN : values(step)));
      const [fan, median] = ["fan", "median"].map((name) => this.places[`${SIDES[i]}-${name}`]);
      for (let q = 0; q < size; q++) {
        data[fan + q] = from((step) => quantiles[step * size + q]);
      }
      data[median] = data[fan + this.page.engine.middle];
      paths.forEach((values, path) => {
        data[this.places[`${SIDES[i]}-paths`] + path] = from((step) => values[step]);
      });
    });
    return data;
  }

  draw(shown) {
    this.shown = shown;
    this.range = this.upright();
    this.plot.setData(this.data());
  }

  // -- points ----------------------------------------------------------------------------------

  /** Put the points where their observations are. They are elements, so that the keyboard and
   *  screen readers reach them. One of them is in the order of the Tab key. */
  place() {
    const there = new Map(this.observed().map(([value, step]) => [step, value]));
    for (const [step, point] of this.points) {
      if (!there.has(step)) {
        point.remove();
        this.points.delete(step);
      }
    }
    for (const [step, value] of there) {
      if (!this.points.has(step)) this.points.set(step, this.point(step));
      const point = this.points.get(step);
      point.style.left = `${this.plot.valToPos(this.number(step), "x")}px`;
      point.style.top = `${this.plot.valToPos(value, "y")}px`;
      point.setAttribute("aria-valuemin", String(this.range[0]));
      point.setAttribute("aria-valuemax", String(this.range[1]));
      point.setAttribute("aria-valuenow", String(value));
      point.setAttribute("aria-valuetext", written(value, this.grain));
    }
    const focused = [...this.points.values()].find((each) => each === document.activeElement);
    const first = focused ?? this.points.get(Math.max(...this.points.keys()));
    for (const point of this.points.values()) point.tabIndex = point === first ? 0 : -1;
    this.box.setAttribute("aria-label", `Chart of ${this.target.name}. Its points are `
      + "observations. The arrow keys up and down change a value, those left and right go to "
      + "another point, and Delete removes a point.");
  }

  point(step) {
    const point = element("div", {
      class: "point", role: "slider", "aria-orientation": "vertical", tabindex: "-1",
      "aria-label": `${this.target.name} at ${this.page.step(step)}`,
      pointerdown: (event) => this.grabbed(event, point, step),
      keydown: (event) => this.pressed(event, step),
      dblclick: () => this.set(step, null),
    });
    // In the order of the steps, as a screen reader goes through them.
    const later = [...this.points.keys()].filter((each) => each > step);
    this.over.insertBefore(point, this.points.get(Math.min(...later)) ?? null);
    return point;
  }

  /** The nearest value that the target can have, in few digits. */
  possible(value) {
    const { target, grain } = this;
    let found = Number((Math.round(value / grain) * grain).toPrecision(12));
    if (target.low !== null) found = Math.max(found, target.low);
    if (target.high !== null) found = Math.min(found, target.high);
    if (target.transform === "positive" && found <= 0) found = grain;
    if (target.transform === "counts") found = Math.min(found, target.most);
    return found;
  }

  set(step, value) {
    this.page.observe(step, this.index, value === null ? null : this.possible(value));
  }

  grabbed(event, point, step) {
    if (event.button !== 0) return;
    event.preventDefault();
    point.focus();
    point.setPointerCapture(event.pointerId);
    this.dragging = true;
    const { top } = this.over.getBoundingClientRect();
    const moved = (move) => this.set(step, this.plot.posToVal(move.clientY - top, "y"));
    const ended = () => {
      this.dragging = false;
      point.removeEventListener("pointermove", moved);
      this.page.changed();
    };
    point.addEventListener("pointermove", moved);
    point.addEventListener("lostpointercapture", ended, { once: true });
  }

  pressed(event, step) {
    const value = this.page.scene.y[step][this.index];
    const size = this.grain * (event.shiftKey ? 20 : 2);
    const steps = [...this.points.keys()].sort((a, b) => a - b);
    const beside = (by) => this.points.get(steps[steps.indexOf(step) + by])?.focus();
    const actions = {
      ArrowUp: () => this.set(step, value + size),
      ArrowDown: () => this.set(step, value - size),
      ArrowLeft: () => beside(-1),
      ArrowRight: () => beside(1),
      Delete: () => this.removed(step, beside),
      Backspace: () => this.removed(step, beside),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
    this.place();
  }

  removed(step, beside) {
    beside(-1);
    if (document.activeElement === this.points.get(step)) beside(1);
    if (document.activeElement === this.points.get(step)) $("add").focus();
    this.set(step, null);
  }

  clicked(event) {
    if (event.target !== this.over) return; // a point
    const { left, top } = this.over.getBoundingClientRect();
    const number = Math.round(this.plot.posToVal(event.clientX - left, "x"));
    const step = number - this.page.model.steps.first;
    if (step < 0 || step >= Math.max(this.page.scene.until, this.page.scene.y.length)) return;
    this.set(step, this.plot.posToVal(event.clientY - top, "y"));
  }

  hovered() {
    const at = this.plot.cursor.idx;
    if (this.page.charts) this.page.look(at ?? null);
  }
}

// -- the page -------------------------------------------------------------------------------------

class Page {
  /** `live` is that of a server's page. */
  constructor(model, live = null) {
    Object.assign(this, { model, live });
    this.engine = new Engine(model);
    this.scenes = new Scenes(model, this.engine.targets);
    const { scene, wrong } = this.scenes.fromLink();
    this.scene = scene;
    this.linked(wrong);
    this.dates = this.scenes.dates;
    this.unit = this.dates || model.steps.name === "ds" ? "step" : model.steps.name;
    this.side = 0;
    this.looked = null;
    const size = this.engine.members.length;
    this.number = size * Math.ceil(DRAWN / size); // a path of each member, or several
    this.titles();
    $("main").hidden = false;
    document.body.className = this.engine.count > 1 ? "several" : "single";
    this.compute();
    this.charts = this.engine.targets.map((_, index) => new Chart(this, index, $("charts")));
    this.controls();
    this.draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("hashchange", () => {
      if (location.hash === this.link) return;
      if (location.hash.startsWith("#item=")) return; // of a server: live.js reads it
      const found = this.scenes.fromLink();
      this.linked(found.wrong);
      this.scene = found.scene;
      this.side = Math.min(this.side, this.scene.sides.length - 1);
      this.changed({ rebuild: true });
    });
  }

  linked(wrong) {
    complain("link", wrong.length ? `The link has values that this model cannot take: `
      + `${wrong.join(", ")}. They were left out.` : "");
  }

  titles() {
    const names = this.model.targets.map(({ name }) => name).join(" and ");
    $("title").textContent = `Forecasts of ${names}`;
    document.title = `${$("title").textContent} · Statecast`;
    document.querySelector("label[for=until]").textContent = `up to ${this.unit}`;
    $("add").textContent = `Add the next ${this.unit}`;
    const { cell, units, members, layers } = this.model.network;
    const [items, longest] = [this.model.items.length, this.model.steps.longest];
    const stack = layers > 1 ? `${layers} layers of ` : "";
    const what = [
      `${members} networks of ${stack}${units} ${CELL_NAMES[cell]} units`,
      ...(items ? [`${items.toLocaleString("en")} training items`] : []),
      `up to ${longest} steps`,
    ];
    $("about").textContent = what.join(" · ");
  }

  /** Something of the scene has changed: draw it in the next frame. */
  changed({ rebuild = false } = {}) {
    this.rebuild ||= rebuild;
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      if (this.rebuild) this.controls();
      this.rebuild = false;
      this.compute();
      this.draw();
    });
  }

  /** The user has changed the item. A change of the other side is none of the item of a server. */
  edited(side = this.side) {
    if (side === 0) this.live?.left();
    this.changed();
  }

  /** Set or remove an observation. */
  observe(step, index, value) {
    const { y, past } = this.scene;
    if (value !== null && !this.engine.targets[index].takes(value)) return;
    while (y.length <= step) y.push(this.engine.targets.map(() => null));
    y[step][index] = value;
    while (y.length && y.at(-1).every((each) => each === null)) y.pop();
    if (this.model.network.past) {
      const blank = () => this.scenes.cells(this.model.past, {}, true);
      while (past.length < y.length) past.push(blank());
      past.length = y.length;
    }
    this.edited(0);
  }

  compute() {
    const began = performance.now();
    this.forecasts = this.scene.sides.map((side) => this.engine.forecast({ ...side, y: this.scene.y,
      past: this.scene.past, until: this.scene.until }));
    this.live?.apply(this.forecasts);
    this.paths = this.forecasts.map((forecast) => (this.scene.paths
      ? this.engine.paths(forecast, this.number, (position, path) => random(position, path, 0),
        (position, path) => random(position, path, 1)) : this.engine.targets.map(() => [])));
    this.took = performance.now() - began;
  }

  draw() {
    const { near } = this.forecasts[this.side];
    const alike = this.scene.alike ? near.items.slice(0, ALIKE) : [];
    const curves = alike.map((item) => this.engine.training(item));
    this.charts.forEach((chart, index) => chart.draw({
      alike: curves.map((each) => each[index]),
      sides: this.forecasts.map(({ known, quantiles }, i) => ({
        known,
        quantiles: quantiles[index],
        paths: this.paths[i][index].slice(0, PATHS),
      })),
    }));
    this.points();
    this.past();
    this.key(alike);
    this.look(this.looked);
    this.table();
    const finite = this.forecasts.every(({ network }) => network.quantiles.every(Number.isFinite));
    complain("range", finite ? ""
      : "The forecast leaves the range of numbers. Ask for fewer steps.");
    const within = this.scene.until <= this.model.steps.longest;
    complain("steps", within ? "" : "Nothing was learnt about steps beyond the longest training "
      + "item: the forecast may drift there.");
    clearTimeout(this.later);
    this.later = setTimeout(() => this.settled(), SAID_AFTER);
  }

  /** What is done when nothing has changed for a moment. */
  settled() {
    history.replaceState(null, "", this.link);
    const last = this.scene.until - 1;
    $("said").textContent = this.forecasts.map((_, i) => this.sentence(i, last)).join(" ");
  }

  get link() {
    return this.live?.link ?? this.scenes.link(this.scene);
  }

  named(i) {
    return this.scene.sides.length > 1 ? `${SIDES[i].toUpperCase()}: ` : "";
  }

  /** The name of a step: its date, if the date of step 1 is known. */
  step(step) {
    const date = this.date(step);
    return date === null ? `${this.unit} ${step + this.model.steps.first}` : this.dates.write(date);
  }

  date(step) {
    const { begin } = this.scene;
    return begin === null ? null : this.dates.at(this.dates.read(begin), step);
  }

  /** Whether a step has no forecast, as its date is closed. */
  closed(step) {
    const date = this.date(step);
    return date !== null && this.dates.closed(date);
  }


  /** The forecast of a step in words; `i` is the side. */
  sentence(i, step) {
    const { known, quantiles } = this.forecasts[i];
    const size = this.engine.levels.length;
    const alone = this.scene.sides.length < 2;
    const where = alone ? this.step(step) : `${SIDES[i].toUpperCase()}, ${this.step(step)}`;
    const begin = where[0].toUpperCase() + where.slice(1);
    if (step < known) {
      const values = this.scene.y[step].map((value, index) => (
        value === null ? "missing" : written(value, this.charts[index].grain)));
      return `${begin}: observed ${values.join(", ")}.`;
    }
    if (this.closed(step)) return `${begin}: closed.`;
    const each = this.engine.targets.map(({ name }, index) => {
      const own = quantiles[index].subarray(step * size, (step + 1) * size);
      const [low, middle, high] = [0.1, 0.5, 0.9].map((level) => (
        written(own[this.engine.levels.indexOf(level)], this.charts[index].grain)));
      const which = this.engine.count > 1 ? `${name} ` : "";
      return `${which}median ${middle}, 80 % interval ${low} to ${high}`;
    });
    return `${begin}: ${each.join("; ")}.`;
  }

  /** Show a step beside the chart: the one under the pointer, or else the last one. */
  look(step) {
    this.looked = step;
    if (!this.forecasts) return;
    const last = Math.max(this.scene.until, this.scene.y.length) - 1;
    const at = step === null ? this.scene.until - 1 : Math.min(step, last);
    $("readout").textContent = this.forecasts.map((_, i) => this.sentence(i, at)).join(" ");
    this.state(step === null ? null : at);
  }

  key(alike) {
    const entries = this.forecasts.map((_, i) => {
      const which = this.named(i);
      return element("span", { class: "fan", style: `--shade: var(--${SIDES[i]})` },
        `${which}median, and intervals of 20 to 95 %`);
    });
    if (alike.length) {
      const names = alike.slice(0, 4).map((item) => this.model.items[item]);
      entries.push(element("span", { class: "thin", style: "--shade: var(--grey)" },
        `training items that began alike: ${names.join(", ")}${alike.length > 4 ? ", …" : ""}`));
    }
    $("key").replaceChildren(...entries);
  }

  // -- the state -------------------------------------------------------------------------------

  state(step) {
    const forecast = this.forecasts[this.side];
    const at = step === null ? forecast.known : step + 1;
    const which = this.named(this.side);
    const when = at === 0 ? "before the first step" : `after ${this.step(at - 1)}`;
    $("state-title").textContent = `${which}State ${when}`;
    const leaves = this.engine.state(forecast, at);
    if ($("strips").children.length !== leaves.length) {
      $("strips").replaceChildren(...leaves.map(({ name, layer, members }) => {
        const title = this.model.network.layers > 1 ? `${name}${layer + 1}` : name;
        return element("figure", {}, element("span", { class: "name" }, title),
          element("canvas", { role: "img", width: members[0].length, height: members.length,
            style: `height: ${clip(members.length * 7, 14, 140)}px` }), element("figcaption"));
      }));
    }
    const shades = ["cold", "even", "warm"].map((name) => rgb(colour(name)));
    leaves.forEach(({ name, members }, i) => {
      const [, canvas, caption] = $("strips").children[i].children;
      const [low, high] = extent(members);
      const most = name === "h" ? 1 : Math.max(1, -low, high);
      paint(canvas, members, most, shades);
      const range = [low, high].map((each) => written(each, 0.01)).join(" to ");
      caption.textContent = `${members.length} members × ${members[0].length} units, ${range}`;
      canvas.setAttribute("aria-label", `${name}: ${caption.textContent}`);
    });
  }

  // -- the table -------------------------------------------------------------------------------

  table() {
    const place = document.querySelector("#table .scroll");
    if (!$("table").open) {
      place.replaceChildren();
      return;
    }
    const columns = [["median", 5], ["80 % from", 1], ["to", 9], ["95 % from", 0], ["to", 10]];
    const blocks = this.forecasts.flatMap((forecast, i) => this.engine.targets.map(
      (target, index) => ({ forecast, index, title: `${this.named(i)}${target.name}` })));
    const head = element("thead", {},
      ...(blocks.length > 1 ? [element("tr", {}, element("td"), ...blocks.map(({ title }) => (
        element("th", { colspan: String(columns.length), scope: "colgroup" }, title))))] : []),
      element("tr", {}, element("th", { scope: "col" }, this.unit),
        ...blocks.flatMap(() => columns.map(([name]) => element("th", { scope: "col" }, name)))));
    const size = this.engine.levels.length;
    const body = element("tbody");
    for (let step = this.forecasts[0].known; step < this.scene.until; step++) {
      if (this.closed(step)) continue;
      body.append(element("tr", {},
        element("th", { scope: "row" }, this.scene.begin === null
          ? String(step + this.model.steps.first) : this.step(step)),
        ...blocks.flatMap(({ forecast, index }) => columns.map(([, q]) => element("td", {},
          written(forecast.quantiles[index][step * size + q], this.charts[index].grain / 10))))));
    }
    place.replaceChildren(element("table", {}, head, body));
  }

  // -- controls --------------------------------------------------------------------------------

  /** Make the controls of the scene. */
  controls() {
    const { scene, model } = this;
    const { static: cells } = scene.sides[this.side];
    $("static").hidden = !model.static.numeric.length && !model.static.categorical.length;
    $("features").replaceChildren(
      ...model.static.numeric.map((column) => this.numeric(column, cells)),
      ...model.static.categorical.map((column) => this.choice(column, cells)));
    const side = (name, i) => element("button", {
      type: "button", class: name, "aria-pressed": String(i === this.side),
      click: () => {
        this.side = i;
        this.changed({ rebuild: true });
        requestAnimationFrame(() => $("sides").children[i].focus());
      },
    }, name.toUpperCase());
    $("sides").replaceChildren(...(scene.sides.length < 2 ? [] : SIDES.map(side)));
    $("fork").hidden = $("static").hidden && !model.network.future;
    $("fork").textContent = scene.sides.length > 1
      ? "Stop comparing" : "Compare with other features";
    $("with-alike").hidden = !model.items.length;
    $("until").value = scene.until + model.steps.first - 1;
    $("until").min = String(model.steps.first);
    $("dated").hidden = this.dates === null;
    if (this.dates) {
      $("begin").type = this.dates.daily ? "date" : "datetime-local";
      // A date of which parts are typed has no value yet, and would be cleared.
      if (!$("begin").validity.badInput) $("begin").value = scene.begin ?? "";
      const zone = this.dates.clock === "absolute" ? " (UTC)" : "";
      document.querySelector("label[for=begin]").textContent = `date of step 1${zone}`;
    }
    $("show-paths").checked = scene.paths;
    $("show-alike").checked = scene.alike;
    $("future").hidden = !model.network.future;
    $("past").hidden = !model.network.past;
    this.drawn = {}; // the tables of points and covariates are made again
    if (model.network.future) this.future();
    if (this.bound) return;
    this.bound = true;
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    $("until").addEventListener("input", () => {
      const value = Number($("until").value) - model.steps.first + 1;
      const good = Number.isInteger(value) && value >= 1 && value <= STEPS;
      $("until").setAttribute("aria-invalid", String(!good));
      if (!good) return;
      this.scene.until = value;
      this.scene = this.scenes.read(this.scene).scene; // with the future covariates of each step
      if (model.network.future) this.future();
      this.changed();
    });
    $("begin").addEventListener("change", () => {
      this.scene.begin = $("begin").value || null;
      this.changed({ rebuild: true });
    });
    $("show-paths").addEventListener("change", () => {
      this.scene.paths = $("show-paths").checked;
      this.changed();
    });
    $("show-alike").addEventListener("change", () => {
      this.scene.alike = $("show-alike").checked;
      this.changed();
    });
    $("add").addEventListener("click", () => this.next());
    $("clear").addEventListener("click", () => {
      [this.scene.y, this.scene.past] = [[], []];
      this.edited(0);
    });
    $("fork").addEventListener("click", () => {
      const { sides } = this.scene;
      if (this.side > 0) this.live?.left(); // the other features are kept
      this.scene.sides = sides.length > 1
        ? [sides[this.side]] : [sides[0], structuredClone(sides[0])];
      this.side = this.scene.sides.length - 1;
      this.changed({ rebuild: true });
    });
    $("share").addEventListener("click", async () => {
      history.replaceState(null, "", this.link);
      try {
        await navigator.clipboard.writeText(location.href);
        $("share").textContent = "Copied";
      } catch {
        $("share").textContent = "The link is in the address bar";
      }
      setTimeout(() => { $("share").textContent = "Copy a link"; }, 2000);
    });
    $("table").addEventListener("toggle", () => this.table());
  }

  /** Add an observation at the step after the last one, at the forecast median. */
  next() {
    const step = this.scene.y.length;
    const { quantiles } = this.forecasts[this.side];
    if (step >= this.scene.until) this.scene.until = step + 1;
    const { levels, middle } = this.engine;
    this.charts.forEach((chart, index) => {
      const median = quantiles[index][step * levels.length + middle];
      const { target } = chart;
      chart.set(step, Number.isFinite(median) ? median : target.value(target.onLine(0, step)));
    });
  }

  /** A number with a slider over the range of training. */
  numeric(column, cells) {
    const { name, least, most, start, whole, gain } = column;
    const size = whole ? 1 : roundSize(Math.max(most - least, 1e-9) / 200);
    const round = (value) => Number((Math.round(value / size) * size).toPrecision(12));
    const id = `static-${name}`;
    const value = cells[name];
    const slide = element("input", { type: "range", step: "any", "aria-label": `${name}, slider`,
      min: String(round(least)), max: String(round(most)),
      input: () => set(round(Number(slide.value))) });
    const number = element("input", { type: "number", id, step: "any",
      input: () => set(number.value === "" ? NaN : Number(number.value), number) });
    const missing = element("input", { type: "checkbox", "aria-label": `${name} is missing`,
      change: () => set(missing.checked ? null : round(start)) });
    const set = (next, from) => {
      const good = next === null || Number.isFinite(next);
      number.setAttribute("aria-invalid", String(!good));
      if (!good) return;
      cells[name] = next;
      show(from);
      this.edited();
    };
    const show = (from) => {
      const now = cells[name];
      missing.checked = now === null;
      slide.disabled = now === null;
      if (from !== number) number.value = now === null ? "" : String(now);
      slide.value = String(now ?? start);
    };
    slide.value = String(value ?? start);
    show();
    const hint = element("span", { class: "hint" }, "did not vary in training: no effect");
    return element("div", { class: "field" }, element("label", { for: id }, name), number, slide,
      element("label", { class: "check" }, missing, "missing"), ...(gain ? [] : [hint]));
  }

  /** A menu of the categories of training. */
  choice({ name, codes }, cells) {
    const id = `static-${name}`;
    return element("div", { class: "field" }, element("label", { for: id }, name),
      this.menu(codes, cells, name, { id }));
  }

  menu(codes, cells, name, attributes, side = undefined) {
    const words = [...Object.keys(codes).map((word) => [word, word]),
      ["another one", this.scenes.other], ["missing", null]];
    const options = words.map(([text, value], i) => element("option", { value: String(i),
      selected: cells[name] === value }, text));
    const menu = element("select", { ...attributes, change: () => {
      [, cells[name]] = words[Number(menu.value)];
      this.edited(side);
    } }, ...options);
    return menu;
  }

  /** The table of observations: each number can be typed. */
  points() {
    const place = $("points");
    const { y } = this.scene;
    $("clear").hidden = !y.length;
    if (this.drawn.points !== y.length) {
      this.drawn.points = y.length;
      const { targets } = this.engine;
      const names = element("thead", {}, element("tr", {}, element("td"),
        ...targets.map(({ name }) => element("th", { scope: "col" }, name))));
      const remove = (step) => element("button", {
        type: "button", "aria-label": `Remove ${this.step(step)}`,
        click: () => targets.forEach((_, index) => this.observe(step, index, null)),
      }, "×");
      const rows = y.map((_, step) => element("tr", {},
        element("th", { scope: "row" }, this.step(step)),
        ...targets.map((target, index) => element("td", {}, this.typed(step, index, target))),
        element("td", {}, remove(step))));
      const body = element("tbody", {}, ...rows);
      place.replaceChildren(...(rows.length
        ? [element("table", {}, ...(targets.length > 1 ? [names] : []), body)] : []));
      place.scrollTop = place.scrollHeight;
    }
    place.querySelectorAll("input").forEach((input) => {
      const value = y[Number(input.dataset.step)][Number(input.dataset.index)];
      if (input !== document.activeElement) {
        input.value = value === null ? "" : String(value);
        input.setAttribute("aria-invalid", "false");
      }
    });
  }

  typed(step, index, target) {
    const input = element("input", { type: "number", step: "any", placeholder: "missing",
      "data-step": String(step), "data-index": String(index),
      "aria-label": `${target.name} at ${this.step(step)}`,
      input: () => {
        const value = input.value === "" ? null : Number(input.value);
        const good = value === null ? input.validity.valid : target.takes(value);
        input.setAttribute("aria-invalid", String(!good));
        // The last step keeps its row while its number is typed.
        const alone = step === this.scene.y.length - 1
          && this.scene.y[step].every((each, i) => i === index || each === null);
        if (good && !(value === null && alone)) this.observe(step, index, value);
      } });
    return input;
  }

  // -- covariates ------------------------------------------------------------------------------

  /** A table with a row for each step, and a field for each covariate of a side. */
  cells(columns, rows, place, side) {
    const field = ({ name, codes }, cells, step) => {
      const label = { "aria-label": `${name} at ${this.step(step)}` };
      if (codes) return this.menu(codes, cells, name, label, side);
      const input = element("input", {
        ...label, type: "number", step: "any", placeholder: "missing",
        input: () => {
          if (!input.validity.valid) return;
          cells[name] = input.value === "" ? null : Number(input.value);
          this.edited(side);
        },
      });
      input.value = cells[name] === null ? "" : String(cells[name]);
      return input;
    };
    const every = [...columns.numeric, ...columns.categorical];
    place.replaceChildren(element("table", {},
      element("thead", {}, element("tr", {}, element("td"),
        ...every.map(({ name }) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows.map((cells, step) => element("tr", {},
        element("th", { scope: "row" }, this.step(step)),
        ...every.map((column) => element("td", {}, field(column, cells, step))))))));
  }

  future() {
    const rows = this.scene.sides[this.side].future.slice(0, this.scene.until);
    this.cells(this.model.future, rows, document.querySelector("#future .scroll"), this.side);
  }

  past() {
    const { past } = this.scene;
    if (!this.model.network.past || this.drawn.past === past.length) return;
    this.drawn.past = past.length;
    this.cells(this.model.past, past, document.querySelector("#past .scroll"), 0);
  }
}

// -- heat strips ----------------------------------------------------------------------------------

/** The channels of a colour as the style sheet writes it: #rrggbb. */
const rgb = (text) => [1, 3, 5].map((i) => parseInt(text.trim().slice(i, i + 2), 16));

function extent(rows) {
  let [low, high] = [Infinity, -Infinity];
  for (const row of rows) {
    for (const value of row) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  return [low, high];
}

/** A pixel for each member and unit: from `-most` to `most` the shades of three colours. */
function paint(canvas, rows, most, [cold, even, warm]) {
  const image = new ImageData(rows[0].length, rows.length);
  rows.forEach((row, i) => row.forEach((value, j) => {
    const share = clip(value / most, -1, 1);
    const far = share < 0 ? cold : warm;
    for (let k = 0; k < 3; k++) {
      image.data[4 * (i * row.length + j) + k] = even[k] + Math.abs(share) * (far[k] - even[k]);
    }
    image.data[4 * (i * row.length + j) + 3] = 255;
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// -- start ----------------------------------------------------------------------------------------

let page = null;

{
  const embedded = $("model");
  if (embedded !== null) page = new Page(JSON.parse(embedded.textContent));
}
