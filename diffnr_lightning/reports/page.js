"use strict";

const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);

// Array axes are z, y, x; images of planes that hold z show +z at the top.
const PLANES = {
  axial: { axis: 0, letter: "z", rows: 1, columns: 2 },
  coronal: { axis: 1, letter: "y", rows: 0, columns: 2 },
  sagittal: { axis: 2, letter: "x", rows: 0, columns: 1 },
};
const HU_PRESETS = {
  lung: { level: -600, width: 1500 },
  "soft tissue": { level: 40, width: 400 },
  bone: { level: 400, width: 1800 },
};

// Steps from black over purple and orange to pale yellow, of steadily rising lightness.
const ERROR_STOPS = [
  [0, 0, 3], [27, 12, 66], [74, 12, 107], [120, 28, 109], [165, 45, 96], [207, 68, 70],
  [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164],
];

const state = {
  caseIndex: 0, view: "planes", show: "image", plane: "axial", position: [0, 0, 0],
  level: 0, width: 1, error: 1, smooth: true, cross: false, hidden: new Set(),
  a: 0, b: 0, mix: 50,
};
let shown = null; // the case on the stage, with decoded volumes
let panels = []; // what has to be painted: {canvas, volume, plane, error}
let tools = []; // sliders with their labels

async function decode(id, count) {
  const text = byId(id).textContent;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const levels = new Uint16Array(count);
  let level = 0;
  for (let i = 0; i < count; i++) {
    const folded = bytes[i] | (bytes[count + i] << 8);
    level += folded & 1 ? -((folded + 1) >> 1) : folded >> 1;
    levels[i] = level;
  }
  return levels;
}

function valueOf(level) {
  const [low, high] = shown.limits;
  return low + (level * (high - low)) / (report.levels - 1);
}

// Digits after the point that tell a thousandth of the window.
function decimals() {
  return Math.max(0, Math.ceil(3 - Math.log10(shown.window[1] - shown.window[0]) - 0.5));
}

function greyTable() {
  const table = new Uint32Array(report.levels);
  const low = state.level - state.width / 2;
  for (let i = 0; i < report.levels; i++) {
    const g = Math.max(0, Math.min(255, Math.round((255 * (valueOf(i) - low)) / state.width)));
    table[i] = (255 << 24) | (g << 16) | (g << 8) | g;
  }
  return table;
}

function errorColour(t) {
  const s = Math.max(0, Math.min(1, t)) * (ERROR_STOPS.length - 1);
  const k = Math.min(Math.floor(s), ERROR_STOPS.length - 2);
  return ERROR_STOPS[k].map((c, i) => Math.round(c + (ERROR_STOPS[k + 1][i] - c) * (s - k)));
}

function errorTable() {
  const table = new Uint32Array(report.levels);
  const [low, high] = shown.limits;
  const step = (high - low) / (report.levels - 1);
  for (let i = 0; i < report.levels; i++) {
    const [r, g, b] = errorColour((i * step) / state.error);
    table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

function paint(panel, grey, colour) {
  const [, ny, nx] = shown.shape;
  const strides = [ny * nx, nx, 1];
  const { axis, rows, columns } = PLANES[panel.plane];
  const height = shown.shape[rows];
  const width = shown.shape[columns];
  const { canvas } = panel;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const levels = shown.volumes[panel.volume].levels;
  const truth = panel.error ? shown.volumes[shown.truth].levels : null;
  const start = state.position[axis] * strides[axis];
  for (let i = 0; i < height; i++) {
    const row = start + (rows === 0 ? height - 1 - i : i) * strides[rows];
    for (let j = 0; j < width; j++) {
      const at = row + j * strides[columns];
      pixels[i * width + j] = truth ? colour[Math.abs(levels[at] - truth[at])] : grey[levels[at]];
    }
  }
  context.putImageData(image, 0, 0);
  if (state.cross) {
    context.fillStyle = "rgba(70, 190, 255, 0.55)";
    const y = rows === 0 ? height - 1 - state.position[rows] : state.position[rows];
    context.fillRect(0, y, width, 1);
    context.fillRect(state.position[columns], 0, 1, height);
  }
}

let pending = false;
function repaint() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    draw();
  });
}

function draw() {
  const grey = greyTable();
  const colour = errorTable();
  panels.forEach((panel) => paint(panel, grey, colour));
  paintScale();
  tools.forEach((box) => box.refresh());
}

function paintScale() {
  const scale = byId("scale");
  const context = scale.getContext("2d");
  for (let i = 0; i < scale.width; i++) {
    context.fillStyle = `rgb(${errorColour(i / (scale.width - 1)).join(",")})`;
    context.fillRect(i, 0, 1, 1);
  }
}

function millimetres(plane) {
  const { rows, columns } = PLANES[plane];
  return {
    width: shown.shape[columns] * shown.voxel_mm[columns],
    height: shown.shape[rows] * shown.voxel_mm[rows],
  };
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function frame(plane, width) {
  const box = element("div", state.smooth ? "frame" : "frame crisp");
  const size = millimetres(plane);
  box.style.width = `${width}px`;
  box.style.height = `${(width * size.height) / size.width}px`;
  return box;
}

function panelFigure(volume, plane, error, width, caption) {
  const figure = element("figure");
  const entry = shown.volumes[volume];
  if (caption) {
    const text = element("figcaption", "", entry.label);
    text.append(element("small", "", entry.caption || "\u00a0"));
    figure.append(text);
  }
  const box = frame(plane, width);
  if (error && entry.truth && state.show === "both") {
    box.classList.add("blank");
  } else {
    const canvas = element("canvas");
    box.append(canvas);
    panels.push({ canvas, volume, plane, error: error && !entry.truth });
    follow(box, plane);
  }
  figure.append(box);
  return figure;
}

function tool(plane) {
  const box = element("div", "tool");
  const { axis, letter } = PLANES[plane];
  box.append(element("b", "", plane));
  const label = element("span");
  const slider = element("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = shown.shape[axis] - 1;
  slider.setAttribute("aria-label", `${plane} slice`);
  slider.addEventListener("input", () => {
    state.position[axis] = Number(slider.value);
    state.plane = plane;
    repaint();
  });
  box.append(slider, label);
  box.refresh = () => {
    slider.value = state.position[axis];
    const last = shown.shape[axis] - 1;
    label.textContent = `${letter} ${state.position[axis]} of ${last}`;
  };
  return box;
}

function visibleVolumes() {
  return shown.volumes.map((_, i) => i).filter((i) => !state.hidden.has(shown.volumes[i].label));
}

function kinds() {
  if (shown.truth < 0) return [false];
  return { image: [false], error: [true], both: [false, true] }[state.show];
}

function arrange() {
  panels = [];
  tools = [];
  const stage = byId("stage");
  stage.replaceChildren();
  const pair = state.view === "swipe" || state.view === "blend";
  if (pair && state.show === "both") state.show = "error";
  byId("methods").hidden = pair;
  document.querySelector(".pair").hidden = !pair;
  document.querySelector(".mix").hidden = state.view !== "blend";
  byId("plane").hidden = state.view === "planes";
  byId("show").hidden = shown.truth < 0;
  byId("show").querySelector('[data-value="both"]').hidden = pair;
  const errors = shown.truth >= 0 && state.show !== "image";
  byId("error-control").hidden = !errors;
  byId("scale").hidden = !errors;
  if (pair) arrangePair(stage);
  else arrangeColumns(stage, state.view === "planes" ? Object.keys(PLANES) : [state.plane]);
  mark();
  draw();
}

function arrangeColumns(stage, planes) {
  const volumes = visibleVolumes();
  const room = Math.max(300, stage.clientWidth - 104);
  const widest = Math.max(...planes.map((plane) => millimetres(plane).width));
  let columns = volumes.length || 1;
  if (planes.length === 1) {
    // One plane may wrap where that makes the images on a screen clearly larger.
    const size = millimetres(planes[0]);
    const tall = Math.max(260, window.innerHeight - 260) / kinds().length;
    const edge = (n) => Math.min(room / n, (tall / Math.ceil(volumes.length / n)) * (size.width / size.height));
    for (let n = columns - 1; n >= 1; n--) if (edge(n) > 1.15 * edge(columns)) columns = n;
    columns = Math.ceil(volumes.length / Math.ceil(volumes.length / columns)) || 1;
  }
  const limit = planes.length === 1 ? 900 : 340;
  const width = Math.floor(Math.min(limit, (room - 4 * (columns - 1)) / columns));
  planes.forEach((plane, p) => {
    const rows = planes.length === 1 ? chunks(volumes, columns) : [volumes];
    rows.forEach((row, r) => {
      kinds().forEach((error, k) => {
        const line = element("div", "row");
        if (k === 0 && r === 0) {
          const box = tool(plane);
          tools.push(box);
          line.append(box);
        } else {
          line.append(element("div", "tool", error ? "error" : ""));
        }
        const cells = element("div", "cells");
        cells.style.gridTemplateColumns = `repeat(${row.length}, ${width}px)`;
        const share = millimetres(plane).width / widest;
        row.forEach((volume) => {
          const caption = k === 0 && (p === 0 || planes.length === 1);
          cells.append(panelFigure(volume, plane, error, Math.floor(width * share), caption));
        });
        line.append(cells);
        stage.append(line);
      });
    });
  });
}

function chunks(list, size) {
  const parts = [];
  for (let i = 0; i < list.length; i += size) parts.push(list.slice(i, i + size));
  return parts;
}

function arrangePair(stage) {
  const { plane } = state;
  const size = millimetres(plane);
  const room = Math.max(300, stage.clientWidth - 104);
  const width = Math.floor(Math.min(room, (Math.max(320, window.innerHeight - 250) * size.width) / size.height));
  const line = element("div", "row");
  const box = tool(plane);
  tools.push(box);
  line.append(box);
  const cells = element("div", "cells");
  const both = frame(plane, width);
  const error = state.show === "error" && shown.truth >= 0;
  const order = [state.b, state.a];
  const canvases = order.map((volume, k) => {
    const canvas = element("canvas", k ? "over" : "");
    both.append(canvas);
    panels.push({ canvas, volume, plane, error: error && !shown.volumes[volume].truth });
    return canvas;
  });
  const left = element("span", "tag left", `A  ${name(state.a)}`);
  const right = element("span", "tag right", `B  ${name(state.b)}`);
  both.append(left, right);
  const divider = element("div", "divider");
  if (state.view === "swipe") both.append(divider);
  const mix = () => {
    if (state.view === "swipe") {
      canvases[1].style.clipPath = `inset(0 ${100 - state.mix}% 0 0)`;
      divider.style.left = `calc(${state.mix}% - 1px)`;
    } else {
      canvases[1].style.opacity = String(1 - state.mix / 100);
    }
  };
  mix();
  if (state.view === "swipe") {
    const move = (event) => {
      const bounds = both.getBoundingClientRect();
      state.mix = Math.max(0, Math.min(100, (100 * (event.clientX - bounds.left)) / bounds.width));
      mix();
    };
    both.addEventListener("pointerdown", (event) => {
      both.setPointerCapture(event.pointerId);
      move(event);
    });
    both.addEventListener("pointermove", (event) => {
      if (event.buttons) move(event);
      read(event, both, plane);
    });
  } else {
    follow(both, plane);
  }
  byId("mix").oninput = () => {
    state.mix = Number(byId("mix").value);
    mix();
  };
  cells.append(both);
  line.append(cells);
  stage.append(line);
}

function name(volume) {
  const entry = shown.volumes[volume];
  return entry.caption ? `${entry.label}  ${entry.caption}` : entry.label;
}

function voxelAt(event, box, plane) {
  const { axis, rows, columns } = PLANES[plane];
  const bounds = box.getBoundingClientRect();
  const inside = (t, n) => Math.max(0, Math.min(n - 1, Math.floor(t * n)));
  const row = inside((event.clientY - bounds.top) / bounds.height, shown.shape[rows]);
  const point = [0, 0, 0];
  point[axis] = state.position[axis];
  point[rows] = rows === 0 ? shown.shape[0] - 1 - row : row;
  point[columns] = inside((event.clientX - bounds.left) / bounds.width, shown.shape[columns]);
  return point;
}

function read(event, box, plane) {
  const [z, y, x] = voxelAt(event, box, plane);
  const at = (z * shown.shape[1] + y) * shown.shape[2] + x;
  const digits = decimals();
  const unit = shown.unit === "HU" ? " HU" : "";
  const readout = byId("readout");
  readout.replaceChildren(`x ${x}  y ${y}  z ${z}`);
  shown.volumes.forEach((volume) => {
    readout.append("   ", `${volume.label} `);
    readout.append(element("b", "", valueOf(volume.levels[at]).toFixed(digits) + unit));
  });
}

function follow(box, plane) {
  let origin = null;
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    origin = { x: event.clientX, y: event.clientY, level: state.level, width: state.width, moved: false };
  });
  box.addEventListener("pointermove", (event) => {
    read(event, box, plane);
    if (!origin) return;
    const [dx, dy] = [event.clientX - origin.x, event.clientY - origin.y];
    if (Math.hypot(dx, dy) > 4) origin.moved = true;
    if (!origin.moved) return;
    const span = shown.window[1] - shown.window[0];
    state.width = Math.max(span / 500, origin.width + (dx * span) / 400);
    state.level = origin.level + (dy * span) / 400;
    mark();
    repaint();
  });
  box.addEventListener("pointerup", (event) => {
    if (origin && !origin.moved) {
      state.position = voxelAt(event, box, plane);
      state.plane = plane;
      repaint();
    }
    origin = null;
  });
  box.addEventListener("pointercancel", () => { origin = null; });
}

function presets() {
  const [low, high] = shown.window;
  const [first, last] = shown.first_window;
  const all = {
    standard: { level: (first + last) / 2, width: last - first },
    "full range": { level: (low + high) / 2, width: high - low },
  };
  if (shown.unit === "HU") Object.assign(all, HU_PRESETS);
  else {
    all["lower half"] = { level: low + (high - low) / 4, width: (high - low) / 2 };
    all["upper half"] = { level: high - (high - low) / 4, width: (high - low) / 2 };
  }
  return all;
}

// Show the state in the controls.
function mark() {
  for (const id of ["view", "show", "plane"]) {
    byId(id).querySelectorAll("button").forEach((button) => {
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", String(button.dataset.value === state[id]));
    });
  }
  const digits = decimals();
  byId("level").value = state.level.toFixed(digits);
  byId("width").value = state.width.toFixed(digits);
  byId("error").value = Number(state.error.toFixed(digits));
  byId("a").value = state.a;
  byId("b").value = state.b;
  byId("mix").value = state.mix;
  const preset = Object.entries(presets()).find(
    ([, p]) => Math.abs(p.level - state.level) < 1e-6 && Math.abs(p.width - state.width) < 1e-6,
  );
  byId("preset").value = preset ? preset[0] : "own";
  byId("methods").querySelectorAll("button").forEach((button) => {
    button.setAttribute("aria-pressed", String(!state.hidden.has(button.textContent)));
  });
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
}

async function open(index) {
  const description = report.cases[index];
  const count = description.shape.reduce((a, b) => a * b, 1);
  const volumes = await Promise.all(description.volumes.map(async (volume) => (
    { ...volume, levels: await decode(volume.element, count) })));
  shown = { ...description, volumes, truth: volumes.findIndex((volume) => volume.truth) };
  state.caseIndex = index;
  state.position = shown.shape.map((n) => Math.floor(n / 2));
  state.hidden = new Set();
  Object.assign(state, presets().standard);
  state.error = 0.1 * state.width;
  const last = volumes.length - 1;
  state.b = shown.truth > 0 ? shown.truth - 1 : last;
  state.a = 0;
  if (shown.truth < 0 && state.show !== "image") state.show = "image";
  const choices = volumes.map((volume, i) => [i, volume.label]);
  fill(byId("a"), choices);
  fill(byId("b"), choices);
  fill(byId("preset"), [...Object.keys(presets()).map((p) => [p, p]), ["own", "own"]]);
  byId("methods").replaceChildren(...volumes.map((volume) => {
    const chip = element("button", "", volume.label);
    chip.type = "button";
    chip.addEventListener("click", () => {
      if (!state.hidden.delete(volume.label)) state.hidden.add(volume.label);
      arrange();
    });
    return chip;
  }));
  document.querySelectorAll(".unit").forEach((node) => {
    node.textContent = shown.unit === "HU" ? "HU" : "";
  });
  byId("about").textContent = about();
  charts();
}

function about() {
  const unit = shown.unit === "HU" ? " HU" : "";
  const [low, high] = shown.limits.map((v) => Number(v.toPrecision(4)));
  const size = shown.shape.slice().reverse().join(" × ");
  const edges = shown.voxel_mm.slice().reverse().map((e) => Number(e.toPrecision(4))).join(" × ");
  const averaged = shown.factor > 1 ? `, averaged over blocks of ${shown.factor} voxels for this page` : "";
  const errors = shown.truth >= 0 ? " Error maps show |volume − truth|." : " The truth is not known.";
  return `${size} voxels (x, y, z) of ${edges} mm${averaged}. Values are clipped to ${low} … ${high}${unit}.${errors}`;
}

function charts() {
  const series = {};
  shown.volumes.forEach((volume) => {
    const { iteration } = volume.history;
    if (!iteration) return;
    Object.entries(volume.history).forEach(([key, values]) => {
      if (key === "iteration") return;
      const points = values.map((v, k) => [iteration[k], v]).filter(([a, b]) => a !== null && b !== null);
      if (points.length > 1) {
        (series[key] ??= []).push({ label: volume.label, points, colour: volume.colour });
      }
    });
  });
  byId("convergence").hidden = Object.keys(series).length === 0;
  byId("charts").replaceChildren(...Object.entries(series).map(([key, lines]) => chart(key, lines)));
}

function chart(key, lines) {
  const [W, H, L, R, T, B] = [520, 240, 56, 24, 14, 30];
  const xs = lines.flatMap((line) => line.points.map((p) => p[0]));
  const ys = lines.flatMap((line) => line.points.map((p) => p[1]));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  // Losses that fall by more than a factor of ten are read on a logarithmic axis.
  const logarithmic = y0 > 0 && y1 / y0 > 10;
  const fy = logarithmic ? Math.log10 : (v) => v;
  if (y0 === y1) y1 = y0 + 1;
  const px = (x) => L + ((W - L - R) * (x - x0)) / (x1 - x0 || 1);
  const py = (y) => H - B - ((H - T - B) * (fy(y) - fy(y0))) / (fy(y1) - fy(y0));
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  const value = (t) => (logarithmic ? 10 ** (fy(y0) + t * (fy(y1) - fy(y0))) : y0 + t * (y1 - y0));
  const text = (v) => Number(v.toPrecision(3)).toString();
  const grid = ticks.map((t) => {
    const y = py(value(t));
    const x = px(x0 + t * (x1 - x0));
    return `<line class="axis" x1="${L}" x2="${W - R}" y1="${y}" y2="${y}"/>`
      + `<text x="${L - 6}" y="${y + 4}" text-anchor="end">${text(value(t))}</text>`
      + `<text x="${x}" y="${H - 10}" text-anchor="middle">${text(x0 + t * (x1 - x0))}</text>`;
  }).join("");
  const paths = lines.map((line) => `<polyline fill="none" stroke="${line.colour}" stroke-width="1.8" points="${
    line.points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ")}"/>`).join("");
  const box = element("div");
  const head = element("div", "legend");
  head.append(element("b", "", key + (logarithmic ? " (logarithmic)" : "")));
  lines.forEach((line) => {
    const item = element("span", "", line.label);
    const mark = element("i");
    mark.style.background = line.colour;
    item.prepend(mark);
    head.append(item);
  });
  box.append(head);
  box.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 ${W} ${H}" role="img">${grid}${paths}</svg>`);
  return box;
}

function choose(id, value) {
  state[id] = value;
  arrange();
}

function step(amount) {
  const { axis } = PLANES[state.plane];
  const last = shown.shape[axis] - 1;
  state.position[axis] = Math.max(0, Math.min(last, state.position[axis] + amount));
  repaint();
}

function listen() {
  for (const id of ["view", "show", "plane"]) {
    byId(id).addEventListener("click", (event) => {
      if (event.target.dataset.value) choose(id, event.target.dataset.value);
    });
  }
  byId("case").addEventListener("change", async () => {
    await open(Number(byId("case").value));
    arrange();
  });
  byId("preset").addEventListener("change", () => {
    Object.assign(state, presets()[byId("preset").value]);
    mark();
    repaint();
  });
  for (const id of ["level", "width", "error"]) {
    byId(id).addEventListener("change", () => {
      const value = Number(byId(id).value);
      if (Number.isFinite(value) && (id === "level" || value > 0)) state[id] = value;
      mark();
      repaint();
    });
  }
  for (const id of ["a", "b"]) {
    byId(id).addEventListener("change", () => choose(id, Number(byId(id).value)));
  }
  for (const id of ["smooth", "cross"]) {
    byId(id).addEventListener("change", () => choose(id, byId(id).checked));
  }
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });
  window.addEventListener("resize", arrange);
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { type, tagName } = event.target;
    if (type === "number" || tagName === "SELECT") return;
    const keys = {
      ArrowLeft: () => step(event.shiftKey ? -10 : -1),
      ArrowRight: () => step(event.shiftKey ? 10 : 1),
      1: () => choose("plane", "axial"),
      2: () => choose("plane", "coronal"),
      3: () => choose("plane", "sagittal"),
      e: () => {
        const order = ["image", "error", "both"];
        if (shown.truth >= 0) choose("show", order[(order.indexOf(state.show) + 1) % 3]);
      },
      " ": () => {
        [state.a, state.b] = [state.b, state.a];
        arrange();
      },
    };
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || (event.key === " " && tagName === "BUTTON")) return;
    event.preventDefault();
    action();
  });
}

// "#view=swipe&plane=coronal&show=error" opens the page in that state.
function readAddress() {
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    const button = ["view", "show", "plane"].includes(key)
      && [...byId(key).querySelectorAll("button")].find((b) => b.dataset.value === value);
    if (button) state[key] = value;
    if (key === "theme") document.documentElement.dataset.theme = value;
    if (key === "preset" && presets()[value]) Object.assign(state, presets()[value]);
    if (key === "cross") state.cross = byId("cross").checked = true;
  }
}

async function start() {
  if (report.cases.length === 0) return;
  const viewer = byId("viewer");
  viewer.hidden = false;
  if (!("DecompressionStream" in window)) {
    viewer.replaceChildren(element("p", "note", "This browser cannot unpack the volumes; use one from 2023 or later."));
    return;
  }
  fill(byId("case"), report.cases.map((entry, i) => [i, entry.name]));
  document.querySelector(".case").hidden = report.cases.length < 2;
  await open(0);
  readAddress();
  listen();
  arrange();
  document.body.dataset.ready = "true";
}

start();
