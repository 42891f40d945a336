/* The page: which model, which potentials, and what they share - time, plots, link and files. */
import { Card } from "./card.js";
import { Clock } from "./clock.js";
import { image, save, table } from "./files.js";
import { decode, encode } from "./link.js";
import { mix, round, words } from "./numbers.js";
import { Panels } from "./panels.js";
import { get, Refused, useKey } from "./server.js";
import { onScheme, still } from "./theme.js";

const $ = (id) => document.getElementById(id);
const NAMES = ["A", "B"];

class App {
  constructor() {
    this.cards = [];
    this.models = [];  // those of the server, by GET /v1/models
    this.chosen = null;  // the one that is wanted by name; else the server chooses, for each problem
    this.modelName = null;  // the one that is described: the chosen, or the default
    this.freeModels = [];  // of the same system, for any initial state
    this.clock = new Clock(() => this.#moved());
    $("play").addEventListener("click", () => this.clock.play(!this.clock.playing));
    $("moment").addEventListener("input", () => this.seek($("moment").value / 1000 * this.clock.end));
    $("speed").addEventListener("change", () => { this.clock.speed = Number($("speed").value); });
    $("compare").addEventListener("click", () => this.#compare());
    $("share").addEventListener("click", () => this.#share());
    $("csv").addEventListener("click", () => save("neural-hamilton.csv", new Blob([table(this.#shown)], { type: "text/csv" })));
    $("png").addEventListener("click", async () => save("neural-hamilton.png", await image($("scene"), this.#shown)));
    $("model").addEventListener("change", () => this.choose($("model").value));
    addEventListener("hashchange", () => { if (location.hash.slice(1) !== this.written) this.open(); });
    addEventListener("keydown", (event) => {
      if (event.key !== " " || event.target !== document.body) return;
      event.preventDefault();
      this.clock.play(!this.clock.playing);
    });
    onScheme(() => { for (const plot of this.panels?.all || []) plot.redraw(); for (const card of this.cards) card.stage.redraw(); });
  }

  get #shown() { return this.cards.filter((card) => card.shown); }
  get modelField() { return this.chosen ? { model: this.chosen } : {}; }
  /* Whether the model has but one initial state, and the server none for another. */
  get isLocked() { return Boolean(this.model.initial_state) && Boolean(this.chosen || !this.freeModels.length); }

  /* The state that the link holds, or the model's first example. */
  async open() {
    let state = { model: null, problems: [] };
    try { state = decode(location.hash); }
    catch (error) { this.notify(error.message); }
    await this.#readModels(state.model);
    await this.#start(state.problems);
  }

  async #readModels(wanted) {
    const { body } = await get("v1/models");
    this.models = body.models;
    const names = this.models.map(({ name }) => name), isThere = names.includes(wanted);
    if (wanted && !isThere) this.notify(`The link asks for the model “${wanted.slice(0, 60)}”; this server has ${names.join(", ")}.`);
    this.default = body.default;
    this.chosen = isThere ? wanted : null;
    $("model").replaceChildren(new Option("automatic", ""), ...names.map((name) => new Option(name, name)));
    $("chooser").hidden = names.length < 2;
  }

  async choose(name) {
    const keep = this.cards.map(({ problem }) => problem), { system } = this.model;
    this.chosen = name || null;
    await this.#start(keep, system);
  }

  /* Begin with a model; problems of another system are not kept. */
  async #start(problems, system = null) {
    this.modelName = this.chosen || this.default;
    const { body: model } = await get(`v1/models/${encodeURIComponent(this.modelName)}`);
    this.model = model;
    this.isPlane = model.domain.length === 2;
    $("model").value = this.chosen || "";
    for (const card of this.cards) card.remove();
    this.cards = [];
    if (model.domain.length > 2) {
      $("scene").hidden = $("transport").hidden = $("tools").hidden = true;
      return this.notify(`This page draws one or two degrees of freedom; the model of system “${model.system}” has ${model.domain.length}. Use the HTTP interface or Python.`);
    }
    this.#describe();
    this.allowsOwnUnits = !this.isPlane && this.models.some(({ name, predicts_motions: can }) => can && (!this.chosen || name === this.chosen));
    this.freeModels = model.initial_state ? await this.#findFreeModels() : [];
    $("scene").hidden = $("transport").hidden = $("tools").hidden = false;
    $("scene").classList.toggle("plane", this.isPlane);
    this.panels ||= new Panels(this);
    const kept = system === null || system === model.system ? problems : [];
    for (const problem of kept.length ? kept : [{}]) this.#add(this.#fitting(problem));
  }

  /* A problem that another model or a link posed, without what this model fixes or this number of coordinates cannot use. */
  #fitting(problem) {
    const fits = (value) => (Array.isArray(value) ? value.length : 1) === this.model.domain.length, { q0, p0, ...rest } = problem;
    const locked = this.isLocked && problem.units !== "own";
    return { ...rest, ...(!locked && fits(q0) && q0 !== undefined && { q0 }), ...(!locked && fits(p0) && p0 !== undefined && { p0 }) };
  }

  async #findFreeModels() {
    const others = this.models.filter(({ name, system }) => name !== this.modelName && system === this.model.system);
    const cards = await Promise.all(others.map(async ({ name }) => [name, (await get(`v1/models/${encodeURIComponent(name)}`)).body]));
    return cards.filter(([, { initial_state: fixed }]) => !fixed).map(([name]) => name);
  }

  #describe() {
    const { model, isPlane } = this;
    const which = this.chosen || this.models.length === 1 ? `The network ${this.modelName}` : `Automatic: the most accurate model, by validation loss, that predicts from the initial state; the sentence below V names it. The default, ${this.modelName},`;
    $("about").textContent = `${which} has ${Number(model.num_parameters).toLocaleString("en")} parameters and reads V at ${model.sensors.join(" × ")} sensors.`;
    for (const [id, name] of [["position", "q"], ["momentum", "p"]])
      document.querySelector(`#${id} figcaption`).innerHTML = `${id === "position" ? "Position" : "Momentum"} ${isPlane ? `<i>${name}</i>₁ and, paler, <i>${name}</i>₂` : `<i>${name}</i>(<i>t</i>)`}`;
  }

  /* What is asked for and what comes of it, in the units of the first potential. */
  #introduce() {
    const { model, isPlane } = this, names = model.domain.map((_, axis) => `q${isPlane ? axis + 1 : ""}`).join(", ");
    const ranges = model.domain.map(([low, high], axis) => `${words(low)} ≤ q${isPlane ? axis + 1 : ""} ≤ ${words(high)}`.replaceAll(" ", "\u00a0")).join(", ");
    const hasFormula = Object.keys(model.fields).length === 1, rule = model.requirements ? `, with ${model.requirements}` : "";
    const given = hasFormula ? `V(${names}) on ${ranges}${rule}` : `Parameters of the system “${model.system}” and a start in ${ranges}`;
    const whose = hasFormula && model.has_unit_mass ? "the motion of a particle of unit mass" : "the motion";
    $("task").textContent = this.cards[0].isOwn ? "Any potential, mass and bounded motion along a line: a neural operator predicts one swing, without time steps, and the exact period repeats it."
      : `${given}: a neural operator predicts ${whose} up to t = ${model.horizon}, without time steps.`;
  }

  #add(problem) {
    const card = new Card(this, NAMES[this.cards.length], problem);
    this.cards.push(card);
    $("scene").classList.toggle("two", this.cards.length === 2);
    $("compare").setAttribute("aria-pressed", String(this.cards.length === 2));
    card.ask();
  }

  /* A second potential: the same problem with the next example, or else with another mass or initial state. */
  #compare() {
    if (this.cards.length === 2) {
      this.cards.pop().remove();
      $("scene").classList.remove("two");
      $("compare").setAttribute("aria-pressed", "false");
      this.remember();
      this.update();
      return this.rest();
    }
    const { problem } = this.cards[0];
    this.#add({ ...problem, ...this.#varied(problem) });
    const { element } = this.cards[1];
    if (element.getBoundingClientRect().top > innerHeight / 2) element.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
  }
  /* A change that is seen and keeps the motion bounded: with twice the mass the energy does not rise, nor with half the momentum. */
  #varied({ units, expression, points, mass, q0, p0 }) {
    if (units === "own") return { mass: 2 * mass };
    const all = Object.values(this.model.examples), next = all[(all.indexOf(expression) + 1) % all.length];
    if (next !== undefined && (points || next !== expression)) return { expression: next, points: null };
    if (this.isLocked) return {};
    if ([p0].flat().some((p) => p)) return { p0: Array.isArray(p0) ? p0.map((p) => p / 2) : p0 / 2 };
    const nearer = (q, axis) => round(mix(q, (this.model.domain[axis][0] + this.model.domain[axis][1]) / 2, 0.25));
    return { q0: Array.isArray(q0) ? q0.map(nearer) : nearer(q0, 0) };
  }

  /* In other units without an end: the longest that any potential takes for its periods. */
  automaticEnd() { return Math.max(...this.cards.filter((card) => card.isAutomatic && card.period).map((card) => card.automaticEnd)); }

  /* The address follows what is shown. */
  remember() {
    const fragment = encode({ model: this.chosen, problems: this.cards.map(({ problem }) => problem) });
    history.replaceState(null, "", `#${fragment}`);
    this.written = location.hash.slice(1);
  }

  /* A card has done what it was asked: one whose time is now too short or too long beside another's asks again. */
  rest() {
    const end = this.automaticEnd();
    for (const card of this.cards) if (card.isAutomatic && card.shown && !card.isOld && !card.isBusy && Math.abs(card.shown.times.at(-1) - end) > 1e-9 * end) card.ask();
  }

  update() {
    const ends = this.#shown.map((card) => card.shown.times.at(-1)), end = Math.max(0, ...ends);
    const periods = Math.max(0, ...this.#shown.map((card) => card.shown.period ? card.shown.times.at(-1) / card.shown.period : 0));
    this.clock.span(end, periods);
    this.panels.update();
    $("scene").classList.toggle("stale", this.cards.some((card) => card.isOld));
    this.#introduce();
    const [{ reference, energies, isOwn, isOld }] = this.cards;
    $("kinds").hidden = this.cards.length > 1 || !(this.model.has_unit_mass || isOwn) || Boolean((reference || isOld) && !energies);
    $("legend").innerHTML = "<span class=\"wide\"></span> prediction <span class=\"thin\"></span> solver ·";
  }

  seek(t) { this.clock.play(false); this.clock.set(t); }

  #moved() {
    const { t, end, playing } = this.clock;
    $("moment").value = end ? 1000 * t / end : 0;
    $("clock").textContent = `t = ${t.toFixed(end < 10 ? 2 : 1)}`;
    $("play").textContent = playing ? "Pause" : "Play";
    for (const card of this.cards) card.moveTo(t);
    this.panels?.moveTo(t);
    const places = this.#shown.map((card) => `${this.cards.length > 1 ? `${card.name} ` : ""}q ${[card.placeAt(t)].flat().map((value) => words(value)).join(", ")}`).join("; ");
    $("moment").setAttribute("aria-valuetext", `t ${t.toFixed(2)}, ${places}`);
  }

  /* The address is copied; where a browser does not let a page do this, it is shown to be copied by hand. */
  async #share() {
    try {
      await navigator.clipboard.writeText(location.href);
      $("share").textContent = "Copied";
      setTimeout(() => { $("share").textContent = "Copy link"; }, 1500);
    } catch {
      const field = $("link").querySelector("input");
      field.value = location.href;
      $("link").hidden = false;
      field.select();
    }
  }

  notify(sentence) { $("notice").textContent = sentence; $("notice").hidden = false; }
}

const app = new App();
window.app = app;  // for a console

function begin() {
  return app.open().catch((error) => {
    if (!(error instanceof Refused)) console.error(error);
    app.notify(error.message);
    $("key").hidden = error.status !== 401;
  });
}
$("key").addEventListener("change", (event) => {
  useKey(event.target.value);
  $("notice").hidden = $("key").hidden = true;
  begin();
});
begin();
