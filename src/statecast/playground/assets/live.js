/* The page of a server: it asks for the model, shows items of the store, and follows their changes.
 *
 * The token is in the memory of the page only. An item is followed until the user changes it on the
 * page; then the forecast is that of the page, and no longer that of the server.
 */
"use strict";

const ASKED_EACH = 2000; // milliseconds between two requests about the item

class Live {
  constructor() {
    this.token = null;
    this.tag = null; // of what is shown
    this.item = null; // that is followed
    this.refused = false; // whether another item was asked for, in vain
    this.asking = null; // the promise of a request's end
    this.rows = []; // of its forecast
  }

  /** Ask the server. Returns null for what has not changed, and raises for a problem. */
  async ask(path, tag = null) {
    const headers = this.token === null ? {} : { Authorization: `Bearer ${this.token}` };
    if (tag !== null) headers["If-None-Match"] = tag;
    const answer = await fetch(path, { headers, cache: "no-store" });
    if (answer.status === 304) return null;
    const content = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(content.detail), { status: answer.status });
    return { content, tag: answer.headers.get("ETag") };
  }

  async begin() {
    let model;
    try {
      model = (await this.ask("v1/playground")).content;
    } catch (error) {
      if (error.status !== 401) throw error;
      complain("token", this.token === null ? "" : "The server has another token.");
      $("gate").hidden = false;
      $("token").focus();
      return;
    }
    complain("token", "");
    $("gate").hidden = true;
    page = new Page(model, this);
    $("live").hidden = false;
    $("live").querySelector("button").addEventListener("click", () => this.follow($("item").value));
    await this.list();
    addEventListener("hashchange", () => this.linked());
    await this.linked();
    setInterval(() => this.again(), ASKED_EACH);
  }

  /** Show the item of the link, if it has one. */
  async linked() {
    const { hash } = location;
    if (hash.startsWith("#item=") && hash !== this.link) {
      await this.follow(decodeURIComponent(hash.slice(6)));
    }
  }

  async list() {
    const { items } = (await this.ask("v1/items")).content;
    $("items").replaceChildren(...items.map((item) => element("option", { value: item })));
  }

  async follow(item) {
    if (item === "") return;
    while (this.asking) await this.asking; // it is about the item before
    const before = [this.item, this.tag];
    [this.item, this.tag, this.refused] = [item, null, false];
    $("item").value = item;
    const status = await this.again();
    if (status === 200 || before[0] === null) return;
    // What is on the page is the item before: it is followed still.
    [this.item, this.tag] = before;
    this.refused = true;
  }

  /** Show the item again if it has changed. One that is deleted is shown again when it is there.
   *  Returns the status of the answer; 0 without one. */
  async again() {
    if (this.item === null || document.hidden) return 200;
    this.asking ??= this.shown().finally(() => { this.asking = null; });
    return this.asking;
  }

  async shown() {
    try {
      await this.show(this.item);
      if (!this.refused) complain("server", "");
      return 200;
    } catch (error) {
      complain("server", error.status ? error.message : "The server does not answer.");
      this.tag = null;
      return error.status ?? 0;
    }
  }

  async show(item) {
    const path = `v1/items/${encodeURIComponent(item)}`;
    const { scene, model } = page;
    const until = scene.until + model.steps.first - 1;
    if (until !== this.until) this.tag = null; // another forecast is needed
    const found = await this.ask(path, this.tag);
    if (found === null) return;
    const ahead = await this.forecast(path, until);
    // The item may have changed in between: the next round shows both again.
    if (this.item !== item || page.scene.until !== scene.until) return;
    [this.tag, this.until, this.rows] = [found.tag, until, ahead.rows];
    const given = this.scene(found.content, ahead);
    page.scene = page.scenes.read({ ...page.scene, ...given }).scene;
    page.side = Math.min(page.side, page.scene.sides.length - 1);
    $("version").textContent = ahead.problem ?? "Changes of the item appear within seconds.";
    page.changed({ rebuild: true });
    if (![...$("items").children].some((each) => each.value === item)) await this.list();
  }

  /** The rows of the forecast, and one of them that says which step a date is. The server has no
   *  forecast if future covariates are not known; then `problem` says so. */
  async forecast(path, until) {
    const levels = page.engine.levels.join(",");
    const ask = async (query) => (await this.ask(`${path}/forecast?${query}`)).content.forecast;
    try {
      const rows = await ask(`until=${until}&quantiles=${levels}`);
      return { rows, dated: rows[0] ?? (await ask("h=1"))[0] };
    } catch (error) {
      if (error.status !== 422) throw error;
      return { rows: [], dated: null, problem: `The server has no forecast. ${error.message}` };
    }
  }

  /** The number of a row's step, from 0. `dated` is a row of the forecast. */
  step(row, dated) {
    const { name, first, dates } = page.model.steps;
    if (dates === null) return row[name] - first;
    if (row.step !== undefined) return row.step - 1;
    const [from, to] = [row[name], dated[name]];
    let apart = Date.parse(to) - Date.parse(from);
    if (dates.unit === "months") {
      const month = (text) => 12 * Number(text.slice(0, 4)) + Number(text.slice(5, 7));
      apart = month(to) - month(from);
    } else {
      apart *= 1000; // in microseconds; a change of the clock is less than half a step
    }
    return dated.step - 1 - Math.round(apart / dates.count);
  }

  /** The date of step 1, from that of a row of the forecast. */
  begun(dated) {
    const text = dated?.[page.model.steps.name];
    if (!page.dates || !text) return null;
    const { dates } = page;
    const date = dates.clock === "absolute" ? Date.parse(text) : dates.read(text);
    return dates.write(dates.at(date, 1 - dated.step));
  }

  /** The scene of an item: `series`, `static` and `future` as tables. */
  scene({ series, static: [own], future }, { dated }) {
    const { model, engine } = page;
    const typed = ({ numeric, categorical }, row) => Object.fromEntries([
      ...numeric.map(({ name }) => [name, row?.[name] ?? null]),
      ...categorical.map(({ name, codes }) => {
        const value = row?.[name] ?? null;
        if (value === null) return [name, null];
        return [name, Object.hasOwn(codes, String(value)) ? String(value) : page.scenes.other];
      }),
    ]);
    const [y, past, plans] = [[], [], []];
    for (const row of series) {
      const step = this.step(row, dated);
      while (y.length <= step) {
        y.push(engine.targets.map(() => null));
        past.push(typed(model.past, {}));
      }
      y[step] = engine.targets.map(({ name }) => row[name]);
      past[step] = typed(model.past, row);
    }
    for (const row of future) plans[this.step(row, dated)] = typed(model.future, row);
    const rows = Array.from(plans, (row) => row ?? typed(model.future, {}));
    while (rows.length < page.scene.until) rows.push(typed(model.future, {}));
    // Another forecast beside that of the item keeps its features.
    const [, ...beside] = page.scene.sides;
    const sides = [{ static: typed(model.static, own), future: rows }, ...beside];
    return { y, past, begin: this.begun(dated), sides };
  }

  /** Put the numbers of the server in the place of those of the page. */
  apply([forecast]) {
    if (this.item === null || !this.rows.length) return;
    const { model, engine, scene } = page;
    if (scene.until + model.steps.first - 1 !== this.until) return;
    const size = engine.levels.length;
    forecast.quantiles.forEach((values, index) => {
      const title = engine.count > 1 ? `statecast-${model.targets[index].name}` : "statecast";
      values.fill(NaN); // closed steps have no forecast
      for (const row of this.rows) {
        const step = this.step(row, null);
        engine.levels.forEach((level, q) => {
          values[step * size + q] = row[`${title}-q-${level}`];
        });
      }
    });
  }

  /** The link to what is shown, if it is an item of the server. */
  get link() {
    return this.item === null ? null : `#item=${encodeURIComponent(this.item)}`;
  }

  /** The user has changed the item on the page. */
  left() {
    if (this.item === null) return;
    this.item = null;
    $("version").textContent = "Changed on this page, and no longer the item of the server.";
  }
}

{
  const live = new Live();
  const begin = () => live.begin().catch((error) => complain("server", error.message));
  $("gate").addEventListener("submit", (event) => {
    event.preventDefault();
    live.token = $("token").value;
    $("token").value = "";
    begin();
  });
  begin();
}
