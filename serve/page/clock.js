/* Time: it plays, pauses and is set. */
import { still } from "./theme.js";

const SECONDS = 8;  // to play a prediction once, unless it holds many periods

export class Clock {
  constructor(moved) {
    this.moved = moved;
    this.t = 0;
    this.end = 0;  // 0: nothing to play
    this.seconds = SECONDS;
    this.speed = 1;
    this.playing = false;
  }

  /* What is shown has changed: it now takes until `end`, and holds so many periods. */
  span(end, periods = 0) {
    const part = this.end ? this.t / this.end : 0;
    [this.end, this.seconds] = [end, Math.max(SECONDS, 3 * periods)];
    this.t = Math.min(part, 1) * end;
    this.moved();
  }

  set(t) { this.t = Math.min(Math.max(t, 0), this.end); this.moved(); }

  play(on) {
    if (on && !this.end) return;
    if (on && this.t >= this.end) this.t = 0;
    const starts = on && !this.playing;
    this.playing = on;
    if (starts) requestAnimationFrame((time) => { this.before = time; this.#advance(time); });
    this.moved();
  }

  #advance(time) {
    if (!this.playing) return;
    const passed = time - this.before;
    if (passed >= (still.matches ? 500 : 0)) {  // where motion is unwanted, two jumps a second
      this.before = time;
      this.t += Math.min(passed, 1000) / 1000 * this.speed / this.seconds * this.end;
      if (this.t > this.end) this.t %= this.end;  // and again
      this.moved();
    }
    requestAnimationFrame((next) => this.#advance(next));
  }
}
