/* V(q) with its control points, the particle in it, and its initial state: a ring, and an arrow for the momentum. */
import { draggable, handle, mark, nudgeable } from "./handles.js";
import { atTime, clamp, linspace, round, words } from "./numbers.js";
import { Plot } from "./plots.js";
import { colour } from "./theme.js";

const STUB = 26, ARROW = 0.22, NUM_POINTS = 9;  // pixels of an arrow without momentum; the longest, of the width

export class Well {
  constructor(card, box) {
    this.card = card;
    const stroke = () => colour("ink"), fill = () => colour("well");
    this.plot = new Plot(box, { names: ["q", "V"], paint: (plot, context) => this.#paintEnergy(plot, context), moved: () => this.place() });
    this.curve = [{ stroke, fill, width: 2 }];
    this.dragging = false;
    const { layer } = this.plot;
    this.points = Array.from({ length: NUM_POINTS }, (_, k) => this.#makePoint(layer, k));
    this.bar = mark(layer, `bar ${card.colour}`);
    this.arrow = mark(layer, `arrow ${card.colour}`);
    this.tip = handle(layer, `tip ${card.colour}`, "Initial momentum");
    this.start = handle(layer, `start ${card.colour}`, "Initial position");
    this.ball = mark(layer, `ball ${card.colour}`);
    const may = () => card.mayMove(), done = () => this.#release();
    const moveStart = ([x]) => this.#move(() => card.change({ q0: card.clampPlace(this.plot.fromPixels([x, 0])[0]) }));
    for (const element of [this.start, this.ball]) draggable(element, layer, { may, done, move: moveStart });
    nudgeable(this.start, { may, done, move: ([right]) => card.change({ q0: card.clampPlace(card.problem.q0 + right * card.steps.q) }) });
    draggable(this.tip, layer, { may, done, move: ([x]) => this.#move(() => card.change({ p0: this.#momentumAt(x) })) });
    nudgeable(this.tip, { may, done, move: ([right]) => card.change({ p0: card.snapMomentum(card.problem.p0 + right * card.steps.p) }) });
  }

  /* V, the energy or the problem has changed. The scale waits while something is dragged: it would move what is held. */
  update() {
    const { field } = this.card;
    if (!field) return;
    const [low, high] = field.domain[0], pad = 0.04 * (high - low), values = field.values;
    if (!this.dragging || !this.plot.u) this.y = this.#scale();
    this.plot.show({ tables: [[linspace(low, high, values.length), values]], series: this.curve, x: [low - pad, high + pad], y: this.y });
    this.place();
  }

  redraw() { this.plot.redraw(); }
  get canvas() { return this.plot.canvas; }

  /* From the bottom to the energy and what lies around it: a steep wall must not flatten the well. */
  #scale() {
    const { values } = this.card.field, energy = this.card.energy, sorted = [...values].sort((a, b) => a - b), [low] = sorted, most = sorted.at(-1);
    const usual = 1.6 * (sorted[Math.floor(0.8 * sorted.length)] - low), own = Number.isFinite(energy) ? 1.25 * (energy - low) : 0;
    const high = low + (Math.min(most - low, Math.max(usual, own)) || 1);
    return [low - 0.08 * (high - low), Math.max(high, Number.isFinite(energy) ? energy : high) + 0.1 * (high - low)];
  }

  #paintEnergy(plot, context) {
    const { energy, field } = this.card;
    if (!field || !Number.isFinite(energy)) return;
    const { left, width } = plot.u.bbox, ratio = devicePixelRatio || 1, y = plot.u.valToPos(energy, "y", true);
    context.save();
    Object.assign(context, { strokeStyle: colour(this.card.colour), fillStyle: colour(this.card.colour), lineWidth: 1.5 * ratio, globalAlpha: 0.9 });
    context.setLineDash([6 * ratio, 4 * ratio]);
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(left + width, y);
    context.stroke();
    Object.assign(context, { font: `${11 * ratio}px system-ui, sans-serif`, textAlign: "center", textBaseline: "bottom" });
    context.fillText(`energy ${words(energy)}`, left + width / 2, y - 3 * ratio);
    context.restore();
  }

  valueAt(q) { return this.card.valueAt(q); }
  #spot(q) { const [x, y] = this.plot.toPixels(q, this.valueAt(q)); return [x, clamp(y, 0, this.plot.height)]; }

  place() {
    const { card, plot } = this, { q0, p0 } = card.problem, usable = card.field && plot.u && Number.isFinite(q0) && Number.isFinite(p0);
    for (const element of [this.start, this.tip, this.arrow]) element.hidden = !usable;
    for (const element of [this.start, this.tip, this.ball]) element.classList.toggle("locked", card.locked);
    this.#placePoints();
    if (!usable) return;
    const [x, y] = this.#spot(q0), tip = this.#tipOf(x), length = Math.abs(tip - x);
    this.start.placeAt(x, y);
    this.tip.placeAt(tip, y);
    this.tip.classList.toggle("left", tip < x);
    this.arrow.placeAt(Math.min(x, tip), y);
    this.arrow.style.width = `${length}px`;
    this.arrow.classList.toggle("none", p0 === 0);
    this.tip.classList.toggle("none", p0 === 0);
    for (const element of [this.tip, this.arrow]) element.hidden = card.locked && p0 === 0;
    this.start.setAttribute("aria-label", `Initial position ${card.name}, q ${q0}; arrow keys move it`);
    this.tip.setAttribute("aria-label", `Initial momentum ${card.name}, p ${p0}; arrow keys change it`);
    this.moveTo(card.app.clock.t);
  }

  moveTo(t) {
    const { shown, field, energy } = this.card;
    this.ball.hidden = this.bar.hidden = !shown || !field || !this.plot.u;
    if (this.ball.hidden) return;
    const q = atTime(shown.times, shown.q, t), [x, y] = this.#spot(q), level = clamp(this.plot.toPixels(q, energy)[1], 0, this.plot.height);
    this.ball.placeAt(x, y);
    this.bar.placeAt(x, Math.min(level, y));
    this.bar.style.height = `${Math.max(y - level, 0)}px`;
  }

  /* Pixels per unit of momentum: the particle that the visible part of V just confines gets the longest arrow. */
  get #arrowScale() { return ARROW * this.plot.width / Math.sqrt(2 * this.card.mass * (this.y[1] - this.y[0])); }
  #tipOf(x) {
    const { p0 } = this.card.problem, way = p0 ? Math.sign(p0) : x > 0.7 * this.plot.width ? -1 : 1;
    return x + way * (STUB + Math.abs(p0) * this.#arrowScale);
  }
  #momentumAt(x) {
    const along = x - this.start.spot[0];
    return this.card.snapMomentum(Math.sign(along) * Math.max(Math.abs(along) - STUB, 0) / this.#arrowScale);
  }

  /* Control points stand on V until one is moved; from then on they are V. Where the model wants walls, the ends stay. */
  get controlPoints() {
    const { field, problem } = this.card;
    if (problem.points) return problem.points;
    return linspace(...field.domain[0], NUM_POINTS).map((q) => [round(q, 5), round(Math.min(this.valueAt(q), this.y[1]), 5)]);
  }
  #isFixed(k) { return this.card.problem.units === "model" && (k === 0 || k === this.points.length - 1); }
  #placePoints() {
    const shown = this.card.field && this.plot.u ? this.controlPoints : [];
    while (this.points.length < shown.length) this.points.push(this.#makePoint(this.plot.layer, this.points.length));
    this.points.forEach((element, k) => {
      element.hidden = k >= shown.length || this.#isFixed(k);
      if (element.hidden) return;
      const [x, y] = this.plot.toPixels(...shown[k]);
      element.placeAt(x, clamp(y, 0, this.plot.height));
      element.setAttribute("aria-label", `Control point ${k + 1} of V, q ${words(shown[k][0])}, V ${words(shown[k][1])}; arrow keys move it`);
    });
  }
  #makePoint(layer, k) {
    const element = handle(layer, "point", "Control point of V"), done = () => this.#release();
    const change = (q, value) => {
      const points = this.controlPoints.map((point) => [...point]), gap = 0.02 * (points.at(-1)[0] - points[0][0]), last = points.length - 1;
      const [before, after] = [points[k - 1]?.[0] + gap, points[k + 1]?.[0] - gap];
      points[k] = [k === 0 || k === last ? points[k][0] : round(clamp(q, before, after), 5), round(value, 5)];
      this.card.drawPoints(points);
      this.#placePoints();
    };
    draggable(element, layer, { done, move: ([x, y]) => this.#move(() => change(...this.plot.fromPixels([x, clamp(y, -20, this.plot.height)]))) });
    nudgeable(element, {
      done, move: ([right, up]) => {
        const [q, value] = this.controlPoints[k], [low, high] = this.plot.x;
        change(q + right * (high - low) / 200, value + up * (this.y[1] - this.y[0]) / 100);
      },
    });
    return element;
  }

  #move(change) { this.dragging = true; change(); }
  #release() { this.dragging = false; this.card.release(); }
}
