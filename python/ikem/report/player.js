// The player of skeletons: draws the clips that a page carries by plotly.js, and moves them.
"use strict";

const LOST = -32768; // stands for what was not seen
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
// Where a spectator stands: how far around, how high (both in radians), and how far away.
const VIEWS = {
  Front: { turn: 0.2, rise: 0.15, distance: 2 },
  Side: { turn: Math.PI / 2, rise: 0, distance: 2 },
  Top: { turn: 0, rise: 1.55, distance: 2 },
};
const PACE = 0.008; // radians for each pixel that the mouse is drawn
const PALE = "#a8a8a8";
const HEAT = { left: 104, right: 12, top: 6, bottom: 34, row: 12 }; // the margins of the map of all joints, in pixels

/** Numbers (frames, bodies, joints, 3) from 16-bit integers. */
function unpack({ data, scale }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (whole) => (whole === LOST ? NaN : whole * scale));
}

/** An element with attributes and children; what is no element is text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A clip whose arrays are unpacked when they are first looked at. */
class Clip {
  constructor(record, layout) {
    Object.assign(this, record, { layout, joints: layout.joints.length, unpacked: {} });
  }

  array(name) {
    this.unpacked[name] ??= unpack(name === "places" ? this.places : this.values[name]);
    return this.unpacked[name];
  }

  /** Three numbers, or null where the joint was not seen. */
  at(name, frame, body, joint) {
    const start = 3 * ((frame * this.bodies + body) * this.joints + joint);
    const [x, y, z] = this.array(name).subarray(start, start + 3);
    return Number.isNaN(x) ? null : [x, y, z];
  }

  length(name, frame, body, joint) {
    const vector = this.at(name, frame, body, joint);
    return vector && Math.hypot(...vector);
  }

  /** The least and the greatest of each axis over the whole clip; no axis is much shorter than the others. */
  get bounds() {
    const low = [Infinity, Infinity, Infinity];
    const high = [-Infinity, -Infinity, -Infinity];
    this.array("places").forEach((value, place) => {
      if (Number.isNaN(value)) return;
      low[place % 3] = Math.min(low[place % 3], value);
      high[place % 3] = Math.max(high[place % 3], value);
    });
    const widest = Math.max(...high.map((value, axis) => value - low[axis])) || 1;
    return low.map((value, axis) => {
      const missing = Math.max(0.3 * widest - (high[axis] - value), 0) / 2;
      return [value - missing, high[axis] + missing];
    });
  }
}

/** Points or lines for a trace; lines are cut where a point is missing. */
class Points {
  constructor() {
    Object.assign(this, { x: [], y: [], z: [], color: [], text: [] });
  }

  add(place, color, text = "") {
    const [x, y, z] = place ?? [null, null, null];
    this.x.push(x);
    this.y.push(y);
    this.z.push(z);
    this.color.push(color);
    this.text.push(text);
  }

  line(from, to, color) {
    if (!from || !to) return;
    this.add(from, color);
    this.add(to, color);
    this.add(null, color);
  }
}

class Player {
  constructor(element) {
    const content = JSON.parse(document.getElementById(element.dataset.clips).textContent);
    this.modalities = content.modalities;
    this.colors = content.colors;
    this.colorScale = this.colors.strength.map((color, place, all) => [place / (all.length - 1), color]);
    this.clips = content.clips.map((record) => new Clip(record, content.layouts[record.layout]));
    this.frame = 0;
    this.playing = false;
    this.view = { ...VIEWS.Front };
    this.build(element);
    this.choose(0);
    new ResizeObserver(() => this.moveCursor()).observe(this.map);
  }

  // ------------------------------------------------------------------------------------------------ the controls

  build(element) {
    this.element = element;
    const button = (text, title, act) => make("button", { type: "button", title, "aria-label": title, onclick: act }, text);
    const box = (text, checked) => {
      const input = make("input", { type: "checkbox", checked, onchange: () => this.draw() });
      return [input, make("label", {}, input, text)];
    };
    const select = (title, options, act) => make("select", { "aria-label": title, title, onchange: act }, ...options);
    const option = (value, text) => make("option", { value }, text);

    this.clipChoice = select("clip", this.clipOptions(), () => this.choose(Number(this.clipChoice.value)));
    this.modalityChoice = select(
      "modality",
      this.modalities.map(({ name, title }) => option(name, title)),
      () => this.showModality(),
    );
    this.colorChoice = select(
      "colors",
      [["value", "colors: value"], ["sides", "colors: left, right"], ["bodies", "colors: bodies"]].map((pair) => option(...pair)),
      () => this.draw(),
    );
    this.speedChoice = select("speed", SPEEDS.map((speed) => option(speed, `${speed} ×`)), () => this.restart());
    this.speedChoice.value = 1;
    this.playButton = button("", "play", () => this.toggle());
    this.slider = make("input", {
      type: "range", min: 0, value: 0, "aria-label": "frame", oninput: () => this.seek(Number(this.slider.value)),
    });
    this.counter = make("output");
    let arrows, names;
    [this.arrows, arrows] = box("arrows", true);
    [this.names, names] = box("names", false);

    this.scene = make("div", { class: "scene" });
    this.heat = make("div", { class: "heat" });
    this.cursor = make("div", { class: "cursor" });
    this.map = make("div", { class: "map" }, this.heat, this.cursor);
    this.mapTitle = make("h4");
    this.facts = make("div", { class: "facts" });
    element.append(
      make("div", { class: "bar" }, ...(this.clips.length > 1 ? [this.clipChoice] : []), this.modalityChoice, this.colorChoice,
        arrows, names,
        make("span", { class: "views" }, ...Object.keys(VIEWS).map((view) => button(view, `${view} view`, () => this.look(view))))),
      make("div", { class: "stage" }, this.scene, make("div", { class: "side" }, this.facts, this.mapTitle, this.map)),
      make("div", { class: "bar" }, this.playButton, button("|◂", "first frame", () => this.seek(0)),
        button("◂", "one frame back", () => this.step(-1)), button("▸", "one frame on", () => this.step(1)),
        this.slider, this.counter, this.speedChoice),
    );
    element.tabIndex = 0;
    element.addEventListener("keydown", (event) => this.press(event));
    this.layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 },
      showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      scene: { dragmode: false, domain: { x: [0, 0.9] }, aspectmode: "manual", bgcolor: "rgba(0,0,0,0)" },
    };
    this.letTurn();
    this.showPlaying();
  }

  /** The mouse turns the scene, also while it plays, which plotly.js by itself does not allow; the wheel goes nearer. */
  letTurn() {
    this.scene.addEventListener("pointerdown", ({ pointerId }) => this.scene.setPointerCapture(pointerId));
    this.scene.addEventListener("pointermove", ({ pointerId, movementX, movementY }) => {
      if (!this.scene.hasPointerCapture(pointerId)) return;
      this.view.turn -= PACE * movementX;
      this.view.rise = Math.min(Math.max(this.view.rise + PACE * movementY, -1.55), 1.55);
      this.drawSoon();
    });
    this.scene.addEventListener("wheel", (event) => {
      if (!this.element.contains(document.activeElement)) return; // the page scrolls on past a player that is not in use
      event.preventDefault();
      this.view.distance = Math.min(Math.max(this.view.distance * Math.exp(0.001 * event.deltaY), 0.4), 8);
      this.drawSoon();
    }, { passive: false });
  }

  /** Draws before the browser paints next, once for all that changes until then. */
  drawSoon() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.draw();
    });
  }

  clipOptions() {
    const groups = new Map();
    this.clips.forEach((clip, place) => {
      const text = [clip.name, clip.label].filter(Boolean).join(": ");
      groups.set(clip.group, [...(groups.get(clip.group) ?? []), make("option", { value: place }, text)]);
    });
    return [...groups].flatMap(([group, options]) => (group ? [make("optgroup", { label: group }, ...options)] : options));
  }

  press(event) {
    if (event.target.matches("select, input")) return;
    const action = { " ": () => this.toggle(), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1) }[event.key];
    if (!action || (event.key === " " && event.target.matches("button"))) return;
    event.preventDefault();
    action();
  }

  // ------------------------------------------------------------------------------------------------ what is shown

  choose(place) {
    this.clip = this.clips[place];
    this.slider.max = this.clip.frames - 1;
    const bounds = this.clip.bounds;
    this.size = Math.max(...bounds.map(([low, high]) => high - low));
    const ranges = bounds.map(([low, high]) => [low - 0.06 * this.size, high + 0.06 * this.size]); // so that nothing is cut
    const sizes = ranges.map(([low, high]) => high - low);
    const scale = 1.35 / Math.max(...sizes);
    const axis = (range) => ({ range, visible: false, showspikes: false, autorange: false });
    ["x", "y", "z"].forEach((name, place) => (this.layout.scene[`${name}axis`] = axis(ranges[place])));
    this.layout.scene.aspectratio = { x: sizes[0] * scale, y: sizes[1] * scale, z: sizes[2] * scale };
    this.floor = this.clip.layout.deep ? floorOf(bounds) : new Points();
    this.tellFacts();
    this.frame = 0;
    this.showModality();
    this.restart();
  }

  tellFacts() {
    const { clip } = this;
    const bodies = clip.bodies > 1 ? `, ${clip.bodies} bodies` : "";
    const length = clip.recorded === clip.frames ? `${clip.frames} frames` : `${clip.recorded} frames, resized to ${clip.frames}`;
    this.facts.replaceChildren(
      make("h3", {}, clip.name),
      make("p", {}, `${clip.layout.name}, ${clip.joints} joints${bodies}, ${length}`),
      ...(clip.label ? [make("p", {}, "shows ", make("strong", {}, clip.label))] : []),
    );
    if (!clip.guesses.length) return;
    const rows = clip.guesses.map(([name, probability]) => {
      const verdict = clip.label && name === clip.label ? "guess right" : "guess";
      const percent = (100 * probability).toFixed(1);
      const bar = make("div", { class: "share", style: `width: ${percent}%` });
      return make("li", { class: verdict }, bar, make("span", {}, name), make("span", {}, `${percent} %`));
    });
    this.facts.append(make("p", {}, "taken for"), make("ol", { class: "guesses" }, ...rows));
  }

  get modality() {
    return this.modalityChoice.value;
  }

  /** What the colors tell. */
  get measure() {
    return this.modality === "joint" ? "distance from the origin" : `length of ${this.modality.replace("_", " ")}`;
  }

  showModality() {
    this.drawMap();
    this.draw();
  }

  /** Draws the current frame. */
  draw() {
    const { clip, frame, modality } = this;
    const { parents, sides, joints } = clip.layout;
    const { strength, range } = clip.values[modality];
    const byValue = this.colorChoice.value === "value";
    const [bones, points, arrows] = [new Points(), new Points(), new Points()];
    for (let body = 0; body < clip.bodies; body++) {
      const colorOf = (joint) =>
        this.colorChoice.value === "sides" ? this.colors.sides[sides[joint]] : this.colors.bodies[body % this.colors.bodies.length];
      for (let joint = 0; joint < clip.joints; joint++) {
        const place = clip.at("places", frame, body, joint);
        const parent = clip.at("places", frame, body, parents[joint]);
        if (parents[joint] !== joint) bones.line(parent, place, byValue ? PALE : colorOf(joint));
        const value = clip.at(modality, frame, body, joint);
        const long = value && Math.hypot(...value);
        const label = `${joints[joint]}<br>${this.measure}: ${long === null ? "not known" : long.toPrecision(3)}`;
        if (place) points.add(place, byValue ? (long ?? 0) : colorOf(joint), this.names.checked ? joints[joint] : label);
        if (!value || !place || modality === "joint" || !this.arrows.checked) continue;
        const isBone = modality === "bone" && parents[joint] !== joint;
        const tail = isBone ? parent : place;
        const stretch = isBone ? 1 : (0.22 * this.size) / (modality === "bone" ? 1 : strength);
        if (tail) arrows.line(tail, tail.map((start, axis) => start + stretch * value[axis]), Math.min(long, strength));
      }
    }
    const scale = { colorscale: this.colorScale, cmin: range[0], cmax: range[1] };
    const bar = { title: { text: this.measure, side: "right", font: { size: 11 } }, thickness: 9, len: 0.55, x: 0.9, xanchor: "left", tickfont: { size: 10 } };
    const trace = (points, more) => ({ type: "scatter3d", hoverinfo: "skip", ...points, color: undefined, ...more });
    const traces = [
      trace(this.floor, { mode: "lines", line: { color: "#d0d0d0", width: 2 } }),
      trace(bones, { mode: "lines", line: { color: bones.color, width: 7 } }),
      trace(arrows, { mode: "lines", line: { color: arrows.color, width: 4, ...scale } }),
      trace(points, {
        mode: this.names.checked ? "markers+text" : "markers",
        hoverinfo: "text",
        textfont: { size: 10, color: "#444444" },
        textposition: "middle right",
        marker: { size: 5, color: points.color, line: { width: 1, color: "#777777" }, ...(byValue ? { ...scale, showscale: true, colorbar: bar } : {}) },
      }),
    ];
    const { turn, rise, distance } = this.view;
    const around = distance * Math.cos(rise);
    const eye = { x: around * Math.sin(turn), y: -around * Math.cos(turn), z: distance * Math.sin(rise) };
    this.layout.scene.camera = { eye };
    this.shown = Plotly.react(this.scene, traces, this.layout, { displayModeBar: false, responsive: true });
    this.slider.value = frame;
    this.counter.textContent = `${frame + 1} / ${clip.frames}`;
    this.moveCursor();
  }

  /** The lengths of the modality's vectors at all joints and frames, as a map; a click goes to the frame. */
  drawMap() {
    const { clip, modality } = this;
    const [rows, names] = [[], []];
    for (let body = 0; body < clip.bodies; body++) {
      for (let joint = 0; joint < clip.joints; joint++) {
        names.push(clip.layout.joints[joint] + (clip.bodies > 1 ? ` ${body + 1}` : ""));
        rows.push(Array.from({ length: clip.frames }, (_, frame) => clip.length(modality, frame, body, joint)));
      }
    }
    const frames = Array.from({ length: clip.frames }, (_, frame) => frame + 1);
    const map = {
      type: "heatmap", x: frames, y: names.map((_, row) => row), z: rows, text: rows.map((row, place) => row.map(() => names[place])),
      zmin: clip.values[modality].range[0], zmax: clip.values[modality].range[1], colorscale: this.colorScale, showscale: false,
      hovertemplate: "%{text}, frame %{x}: %{z:.3g}<extra></extra>", hoverongaps: false,
    };
    const every = Math.ceil(names.length / 30);
    const ticks = names.map((_, row) => row).filter((row) => row % every === 0);
    const layout = {
      margin: { l: HEAT.left, r: HEAT.right, t: HEAT.top, b: HEAT.bottom },
      height: HEAT.top + HEAT.bottom + Math.max(HEAT.row * Math.ceil(names.length / every), 120),
      xaxis: { range: [0.5, clip.frames + 0.5], fixedrange: true, tickfont: { size: 9 }, title: { text: "frame", font: { size: 10 }, standoff: 4 } },
      yaxis: { autorange: "reversed", fixedrange: true, tickvals: ticks, ticktext: ticks.map((row) => names[row]), tickfont: { size: 8.5 }, automargin: false },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "#ffffff",
    };
    this.mapTitle.textContent = `${this.measure}, at every joint`;
    Plotly.react(this.heat, [map], layout, { displayModeBar: false, responsive: true });
    this.heat.removeAllListeners("plotly_click");
    this.heat.on("plotly_click", ({ points }) => this.seek(points[0].x - 1));
  }

  moveCursor() {
    const width = this.map.clientWidth - HEAT.left - HEAT.right;
    this.cursor.style.left = `${HEAT.left + ((this.frame + 0.5) / this.clip.frames) * width}px`;
    this.cursor.style.top = `${HEAT.top}px`;
    this.cursor.style.bottom = `${HEAT.bottom}px`;
  }

  look(view) {
    this.view = { ...VIEWS[view] };
    this.draw();
  }

  // ------------------------------------------------------------------------------------------------ time

  seek(frame) {
    this.frame = Math.min(Math.max(frame, 0), this.clip.frames - 1);
    this.restart();
    this.draw();
  }

  step(by) {
    this.pause();
    this.seek((this.frame + by + this.clip.frames) % this.clip.frames);
  }

  /** Time is counted from here on. */
  restart() {
    this.since = performance.now();
    this.from = this.frame;
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  pause() {
    this.playing = false;
    this.showPlaying();
  }

  play() {
    this.playing = true;
    this.restart();
    this.showPlaying();
    requestAnimationFrame((now) => this.tick(now));
  }

  /** Shows the frame that is due; frames that a slow machine has no time for are passed over. */
  async tick(now) {
    if (!this.playing) return;
    const passed = Math.floor(((now - this.since) / 1000) * this.clip.fps * Number(this.speedChoice.value));
    const due = (this.from + Math.max(passed, 0)) % this.clip.frames;
    if (due !== this.frame) {
      this.frame = due;
      this.draw();
      await this.shown;
    }
    requestAnimationFrame((next) => this.tick(next));
  }

  showPlaying() {
    this.playButton.textContent = this.playing ? "❚❚ Pause" : "▶ Play";
    this.playButton.title = this.playing ? "pause" : "play";
    this.playButton.setAttribute("aria-label", this.playButton.title);
  }
}

/** A grid at the height of the lowest joint. */
function floorOf([[left, right], [near, far], [low, high]], lines = 8) {
  const floor = new Points();
  const side = Math.max(right - left, far - near, (high - low) / 2);
  const [middleX, middleY] = [(left + right) / 2, (near + far) / 2];
  const at = (across, along) => [middleX + (across - 0.5) * (right - left), middleY + (along - 0.5) * (far - near), low];
  const counts = [right - left, far - near].map((size) => Math.max(Math.round((lines * size) / side), 1));
  for (let line = 0; line <= counts[0]; line++) floor.line(at(line / counts[0], 0), at(line / counts[0], 1));
  for (let line = 0; line <= counts[1]; line++) floor.line(at(0, line / counts[1]), at(1, line / counts[1]));
  return floor;
}

for (const element of document.querySelectorAll(".player")) element.player = new Player(element);
