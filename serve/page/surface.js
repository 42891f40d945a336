/* V(q1, q2) as colours and contours, the line where it is the energy, the path and the particle; the initial state is a ring with an arrow. */
import { draggable, handle, nudgeable } from "./handles.js";
import { atTime, clamp, mix, ticks, words } from "./numbers.js";
import { colour, rgb } from "./theme.js";

const PAD = { left: 34, right: 10, top: 18, bottom: 34 }, STUB = 34, LEVELS = 14, ARROW = 0.25, FONT = "11px system-ui, sans-serif";

export class Surface {
  constructor(card, box) {
    this.card = card;
    this.box = box;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "Potential and path of the particle");
    box.append(this.canvas);
    this.pen = this.canvas.getContext("2d");
    this.tip = handle(box, "ghost tip", "Initial momentum");
    this.start = handle(box, "ghost start", "Initial position");
    const may = () => card.mayMove(), done = () => card.release(), area = this.canvas;
    draggable(this.start, area, { may, done, move: (spot) => card.change({ q0: this.fromPixels(spot) }) });
    draggable(this.tip, area, { may, done, move: (spot) => card.change({ p0: this.#momentumAt(spot) }) });
    const along = (name, way) => card.problem[name].map((value, axis) => value + way[axis] * card.stepsOf[axis]);
    nudgeable(this.start, { may, done, move: (way) => card.change({ q0: along("q0", way).map((q, axis) => clamp(q, ...this.domain[axis])) }) });
    nudgeable(this.tip, { may, done, move: (way) => card.change({ p0: along("p0", way) }) });
    this.canvas.addEventListener("click", (event) => {
      if (!card.mayMove()) return;
      card.change({ q0: this.fromPixels([event.offsetX, event.offsetY]) });
      card.release();
    });
    new ResizeObserver(() => this.redraw()).observe(box);
  }

  get domain() { return this.card.model.domain; }
  get #inner() { return [this.canvas.clientWidth - PAD.left - PAD.right, this.canvas.clientHeight - PAD.top - PAD.bottom]; }
  toPixels([a, b]) {
    const [[low, high], [bottom, top]] = this.domain, [width, height] = this.#inner;
    return [PAD.left + (a - low) / (high - low) * width, PAD.top + (top - b) / (top - bottom) * height];
  }
  fromPixels([x, y]) {
    const [width, height] = this.#inner, parts = [(x - PAD.left) / width, 1 - (y - PAD.top) / height];
    return parts.map((part, axis) => mix(...this.domain[axis], clamp(part, 0, 1)));
  }

  update() {
    const { field } = this.card;
    if (field && this.field !== field) {
      this.field = field;
      const all = field.values.flat();
      [this.low, this.high, this.mean] = [Math.min(...all), Math.max(...all), all.reduce((sum, value) => sum + value / all.length, 0)];
      this.#drawBackdrop();
    }
    if (this.field) this.#showEnergy();
  }
  redraw() { this.#drawBackdrop(); if (this.field) this.#showEnergy(); }
  place() { this.#draw(); }
  moveTo() { this.#draw(); }

  /* Pixels per unit of momentum: the fastest particle that the average of V confines gets the longest arrow. */
  get #arrowScale() { return ARROW * this.#inner[0] / (Math.sqrt(2 * (this.mean - this.low)) || 1); }
  #tipPixels({ q0, p0 }) {
    const [x, y] = this.toPixels(q0), speed = Math.hypot(...p0), length = STUB + speed * this.#arrowScale;
    const [u, v] = speed > 0 ? [p0[0] / speed, -p0[1] / speed] : [Math.SQRT1_2, -Math.SQRT1_2];
    return [x + u * length, y + v * length];
  }
  #momentumAt(spot) {
    const [a, b] = this.toPixels(this.card.problem.q0), length = Math.hypot(spot[0] - a, spot[1] - b) || 1;
    const speed = Math.max(length - STUB, 0) / this.#arrowScale;
    return [speed * (spot[0] - a) / length, -speed * (spot[1] - b) / length];
  }

  #showEnergy() {
    const { energy, levels } = this.card, crossed = energy > this.low && energy < this.high;
    this.line = energy === null ? null : this.#contour(energy);
    const same = energy === null ? "" : crossed ? `; bold line where it is the energy, ${words(energy)}` : `; the energy is ${words(energy)}`;
    levels.textContent = `V from ${words(this.low)} (blue) up to ${words(this.high)}${same}.`;
    levels.hidden = false;
    this.#draw();
  }

  /* Marching squares: straight pieces of the line V = level. */
  #contour(level) {
    const v = this.field.values, last = v.length - 1, line = new Path2D();
    const spot = (i, j) => this.toPixels([mix(...this.domain[0], i / last), mix(...this.domain[1], j / last)]);
    const corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
    for (let i = 0; i < last; i++) for (let j = 0; j < last; j++) {
      const below = corners.filter(([a, b]) => v[i + a][j + b] < level).length;
      if (below === 0 || below === 4) continue;
      const ends = [];
      corners.forEach(([a, b], k) => {
        const [c, d] = corners[(k + 1) % 4], one = v[i + a][j + b], other = v[i + c][j + d];
        if (one < level === other < level) return;
        const part = (level - one) / (other - one);
        ends.push(spot(i + mix(a, c, part), j + mix(b, d, part)));
      });
      for (let k = 0; k + 1 < ends.length; k += 2) { line.moveTo(...ends[k]); line.lineTo(...ends[k + 1]); }
    }
    return line;
  }

  /* Contours are denser near the bottom, so that a smooth well has them at even distances, and the colour goes with them. Above twice
     the average height there are none: else one high corner would leave the wells without any. */
  #drawBackdrop() {
    const ratio = devicePixelRatio || 1, { canvas } = this;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    if (!this.field || !canvas.width) return;
    const { field: { values }, low: least, high, mean } = this, most = Math.min(high, 2 * mean - least), count = values.length, [width, height] = this.#inner;
    const deep = rgb("deep"), card = rgb("card"), pixels = new ImageData(count, count);
    values.forEach((column, i) => column.forEach((value, j) => {
      const rise = Math.sqrt(Math.min((value - least) / (most - least || 1), 1)), first = 4 * ((count - 1 - j) * count + i);
      pixels.data.set([...deep.map((shade, k) => mix(shade, card[k], 0.08 + 0.92 * rise)), 255], first);
    }));
    const small = Object.assign(document.createElement("canvas"), { width: count, height: count });
    small.getContext("2d").putImageData(pixels, 0, 0);
    this.backdrop = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    const brush = this.backdrop.getContext("2d");
    brush.scale(ratio, ratio);
    brush.imageSmoothingQuality = "high";
    brush.drawImage(small, 0.5, 0.5, count - 1, count - 1, PAD.left, PAD.top, width, height);
    Object.assign(brush, { strokeStyle: colour("ink"), lineWidth: 0.75, globalAlpha: 0.22 });
    for (let k = 1; k < LEVELS; k++) brush.stroke(this.#contour(mix(least, most, (k / LEVELS) ** 2)));
    Object.assign(brush, { globalAlpha: 1, strokeStyle: colour("line"), fillStyle: colour("soft"), font: FONT });
    brush.strokeRect(PAD.left, PAD.top, width, height);
    const [[left, right], [bottom, top]] = this.domain;
    brush.textAlign = "center";
    for (const q of ticks(left, right)) brush.fillText(q, this.toPixels([q, bottom])[0], PAD.top + height + 15);
    brush.fillText("q₁", PAD.left + width / 2, PAD.top + height + 29);
    brush.textAlign = "right";
    for (const q of ticks(bottom, top)) brush.fillText(q, PAD.left - 6, this.toPixels([left, q])[1] + 4);
    brush.textAlign = "left";
    brush.fillText("q₂", 6, PAD.top - 6);
  }

  #draw() {
    const { canvas, pen, card } = this;
    if (!this.backdrop) return;
    const ratio = devicePixelRatio || 1, { problem, shown } = card, ink = colour("ink");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(this.backdrop, 0, 0);
    pen.scale(ratio, ratio);
    pen.lineJoin = pen.lineCap = "round";
    const trace = (points) => { pen.beginPath(); for (const point of points) pen.lineTo(...point); pen.stroke(); };
    if (this.line) { Object.assign(pen, { strokeStyle: ink, lineWidth: 1.75 }); pen.stroke(this.line); }
    const moving = shown && !card.isOld, t = card.app.clock.t, here = moving && this.toPixels(atTime(shown.times, shown.q, t));
    if (moving) {
      const passed = shown.q.filter((_, i) => shown.times[i] <= t);
      Object.assign(pen, { strokeStyle: colour("path"), lineWidth: 3.5, globalAlpha: 0.35 });
      trace((card.predicted || shown).q.map((q) => this.toPixels(q)));
      pen.globalAlpha = 1;
      trace([...passed.map((q) => this.toPixels(q)), here]);
      if (card.solved) {
        Object.assign(pen, { strokeStyle: ink, lineWidth: 1, globalAlpha: 0.8 });
        pen.setLineDash([3, 4]);
        trace(card.solved.q.map((q) => this.toPixels(q)));
        pen.setLineDash([]);
      }
      pen.globalAlpha = 1;
    }
    if (card.isComplete) this.#drawStart(problem, ink);
    if (moving) {
      Object.assign(pen, { fillStyle: colour("path"), strokeStyle: colour("card"), lineWidth: 1.5 });
      pen.beginPath(); pen.arc(...here, 6.5, 0, 7); pen.fill(); pen.stroke();
    }
    this.#placeHandles(problem);
  }

  #drawStart(problem, ink) {
    const { pen } = this, [x, y] = this.toPixels(problem.q0), [a, b] = this.#tipPixels(problem), length = Math.hypot(a - x, b - y), u = (a - x) / length, v = (b - y) / length;
    Object.assign(pen, { strokeStyle: ink, fillStyle: ink, lineWidth: 2 });
    pen.beginPath(); pen.arc(x, y, 8.5, 0, 7); pen.stroke();
    if (this.card.locked && Math.hypot(...problem.p0) === 0) return;
    trim(pen, [x + 8.5 * u, y + 8.5 * v], [a - 6 * u, b - 6 * v]);
    pen.beginPath();
    pen.moveTo(a + 3 * u, b + 3 * v);
    pen.lineTo(a - 9 * u - 5 * v, b - 9 * v + 5 * u);
    pen.lineTo(a - 9 * u + 5 * v, b - 9 * v - 5 * u);
    pen.closePath();
    pen.fill();
  }

  #placeHandles(problem) {
    const usable = this.card.isComplete && !this.card.locked;
    this.start.hidden = this.tip.hidden = !usable;
    if (!usable) return;
    const inside = ([x, y]) => [clamp(x, 0, this.canvas.clientWidth), clamp(y, 0, this.canvas.clientHeight)];
    this.start.placeAt(...inside(this.toPixels(problem.q0)));
    this.tip.placeAt(...inside(this.#tipPixels(problem)));
    this.start.setAttribute("aria-label", `Initial position ${this.card.name}, q₁ ${problem.q0[0]}, q₂ ${problem.q0[1]}; arrow keys move it`);
    this.tip.setAttribute("aria-label", `Initial momentum ${this.card.name}, p₁ ${problem.p0[0]}, p₂ ${problem.p0[1]}; arrow keys change it`);
  }
}

function trim(pen, from, to) { pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke(); }
