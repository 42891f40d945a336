/* Things that are dragged by pointer and moved by arrow keys. */

/* A button at a place that moves: `element.placeAt(x, y)` in pixels of its parent. */
export function handle(parent, className, label) {
  const element = Object.assign(document.createElement("button"), { type: "button", className: `handle ${className}` });
  element.setAttribute("aria-label", label);
  parent.append(element);
  return placeable(element);
}
export function mark(parent, className) {
  const element = Object.assign(document.createElement("div"), { className });
  parent.append(element);
  return placeable(element);
}
function placeable(element) {
  element.placeAt = (x, y) => { element.style.transform = `translate(${x.toFixed(2)}px, ${y.toFixed(2)}px)`; element.spot = [x, y]; };
  element.placeAt(0, 0);
  return element;
}

/* Drag `element` within `area`: `move([x, y])` in pixels of the area, less where it was gripped; `done()` on release. `may()` allows it. */
export function draggable(element, area, { may = () => true, move, done }) {
  let grip = null;
  const pointer = (event) => { const edge = area.getBoundingClientRect(); return [event.clientX - edge.left, event.clientY - edge.top]; };
  element.addEventListener("pointerdown", (event) => {
    if (event.button || !may()) return;
    event.stopPropagation();
    element.setPointerCapture(event.pointerId);
    const [x, y] = pointer(event), [a, b] = element.spot;
    grip = [a - x, b - y];
  });
  element.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = pointer(event);
    move([x + grip[0], y + grip[1]]);
  });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { if (grip) { grip = null; done(); } });
}

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };

/* `move([right, up])` at an arrow key, ten times as far with Shift; `done()` when it is released. */
export function nudgeable(element, { may = () => true, move, done }) {
  element.addEventListener("keydown", (event) => {
    if (!WAYS[event.key]) return;
    event.preventDefault();
    if (may()) move(WAYS[event.key].map((way) => way * (event.shiftKey ? 10 : 1)));
  });
  element.addEventListener("keyup", (event) => { if (WAYS[event.key] && may()) done(); });
}
