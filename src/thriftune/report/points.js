'use strict';
// The map and the scatter plot: thousands of points on a canvas, with the picks of the chosen selection on top.
{
  const { data, byId, html, svg, colour, number, ticks, inspect, onRedraw, current, state, choose } = report;
  const points = data.points;
  const answered = new Set(points.answered);

  const style = () => {
    const computed = getComputedStyle(document.documentElement);
    return (name) => computed.getPropertyValue(`--${name}`).trim();
  };
  function prepare(canvas) {
    const ratio = Math.max(devicePixelRatio || 1, 1);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    return { context, width, height };
  }
  const picksOf = () => (current() ? current().points : []);
  const ranks = () => { const map = new Map(); picksOf().forEach((p, i) => map.set(p, i + 1)); return map; };

  function describe(i) {
    const rank = picksOf().indexOf(i);
    const lines = [html('b', {}, html('bdi', {}, points.id[i]))];
    if (rank >= 0) lines.push(html('span', { class: 'row' }, html('span', { class: `swatch ${colour(state.selection)}` }), `pick ${rank + 1} of ${current().name}`));
    const facts = [`${number(points.length[i])} ${data.length_unit}`];
    if (points.task && points.names[points.task[i]]) facts.unshift(points.names[points.task[i]]);
    if (answered.has(i)) facts.push('answered');
    lines.push(html('span', {}, html('bdi', {}, facts.join(' · '))));
    const shown = byId('map-colour')?.value;
    for (const [name, values] of Object.entries(points.scores)) {
      if (name === shown || name === byId('scatter-score')?.value) lines.push(html('span', { class: 'row' }, data.columns[name].label, html('span', { class: 'value' }, number(values[i]))));
    }
    lines.push(html('bdi', { class: 'quote' }, points.text[i]));
    return lines;
  }

  // Screen places of everything drawn, and the nearest to a pointer: picks first, they are what one looks for.
  function finder(place, reach) {
    return (x, y) => {
      const nearest = (list, limit) => {
        let best = null;
        let least = limit * limit;
        for (const i of list) {
          const [px, py] = place(i);
          const d = (px - x) ** 2 + (py - y) ** 2;
          if (d < least) { least = d; best = i; }
        }
        return best;
      };
      return nearest(picksOf(), reach) ?? nearest(points.sample, reach);
    };
  }
  function step(i, by) {
    const list = picksOf().length ? picksOf() : points.sample;
    const at = list.indexOf(i);
    if (at < 0) return by > 0 ? list[0] : list.at(-1);
    return list[(at + by + list.length) % list.length];
  }
  function ring(context, x, y, get) {
    context.beginPath();
    context.arc(x, y, 8, 0, 7);
    context.lineWidth = 2.5;
    context.strokeStyle = get('accent');
    context.stroke();
  }

  // --- map --------------------------------------------------------------------------------------------------------
  const canvas = byId('map-canvas');
  if (canvas && points.x) {
    const zoom = { k: 1, x: 0, y: 0 };
    let marked = null;
    let highlighted = null;
    let panning = null;
    let size = { width: 1, height: 1 };
    const spread = (v) => { let m = 1; for (const c of v) m = Math.max(m, Math.abs(c)); return m; };
    const reachX = spread(points.x);
    const reachY = spread(points.y);
    const fit = () => Math.min((size.width / 2 - 14) / reachX, (size.height / 2 - 14) / reachY);
    const place = (i) => {
      const s = fit() * zoom.k;
      return [size.width / 2 + points.x[i] * s + zoom.x, size.height / 2 + points.y[i] * s + zoom.y];
    };
    const coloured = new Map(data.coloured.map((task, i) => [task, i]));
    const taskColour = points.names.map((task) => (coloured.has(task) ? `c${coloured.get(task) + 1}` : null));
    const mode = () => byId('map-colour').value;
    // Colour by rank in the pool, so that a few extreme values do not use up the scale.
    function percentile(column, value) {
      if (value === null) return null;
      const q = data.columns[column].quantiles;
      let low = 0;
      let high = 100;
      while (low < high) { const m = (low + high) >> 1; if (q[m] < value) low = m + 1; else high = m; }
      return low / 100;
    }
    function mixer(get) {
      const stops = [0, 1, 2, 3, 4].map((i) => get(`s${i}`).match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16)));
      return (t) => {
        const at = Math.min(3, Math.floor(t * 4));
        const f = t * 4 - at;
        return `rgb(${stops[at].map((c, k) => Math.round(c + (stops[at + 1][k] - c) * f)).join(' ')})`;
      };
    }
    const only = () => Number(byId('map-task')?.value ?? -1);
    function painter(get) {
      const how = mode();
      if (how === 'task') return (i, pick) => get(taskColour[points.task[i]] ?? (points.task[i] === only() ? 'accent' : pick ? 'pool' : 'pool-dot'));
      if (how === 'picked') return (i, pick) => get(pick ? `c${(state.selection % 6) + 1}` : 'pool-dot');
      const values = how === 'length' ? points.length : points.scores[how];
      const mix = mixer(get);
      return (i) => { const t = percentile(how, values[i]); return t === null ? get('pool-dot') : mix(t); };
    }
    function draw() {
      const { context, width, height } = prepare(canvas);
      size = { width, height };
      const get = ((lookup) => { const cache = {}; return (n) => (cache[n] ??= lookup(n)); })(style());
      const paint = painter(get);
      const task = only();
      const dim = (i) => (task >= 0 && points.task[i] !== task)
        || (highlighted !== null && mode() === 'task' && (taskColour[points.task[i]] ?? 'other') !== highlighted);
      const inside = (x, y) => x > -9 && y > -9 && x < width + 9 && y < height + 9;
      const r = Math.min(2.2 * Math.sqrt(zoom.k), 5);
      const picks = picksOf();
      const crowded = picks.length > 800;
      for (const i of points.sample) {
        const [x, y] = place(i);
        if (!inside(x, y)) continue;
        context.globalAlpha = dim(i) ? 0.08 : crowded ? 0.35 : 0.6;
        context.fillStyle = paint(i, false);
        context.beginPath();
        context.arc(x, y, r, 0, 7);
        context.fill();
      }
      context.globalAlpha = 1;
      for (const i of answered) {
        const [x, y] = place(i);
        context.strokeStyle = get('soft');
        context.lineWidth = 1.5;
        context.strokeRect(x - 4, y - 4, 8, 8);
      }
      const big = Math.min(5, (crowded ? 2.8 : picks.length > 300 ? 4 : 5) * Math.sqrt(zoom.k));
      for (let n = picks.length - 1; n >= 0; n--) { // the first picks end up on top
        const [x, y] = place(picks[n]);
        if (!inside(x, y)) continue;
        context.globalAlpha = dim(picks[n]) ? 0.15 : 1;
        context.beginPath();
        context.arc(x, y, big, 0, 7);
        context.fillStyle = paint(picks[n], true);
        context.fill();
        context.lineWidth = crowded && zoom.k < 2 ? 0.5 : 1.3;
        context.strokeStyle = get('ink');
        context.stroke();
      }
      context.globalAlpha = 1;
      if (marked !== null) ring(context, ...place(marked), get);
    }
    function dot(kind, large) {
      return svg('svg', { width: 14, height: 14, class: `${kind} key` }, svg('circle', { cx: 7, cy: 7, r: large ? 5 : 4, class: large ? 'pick-key' : 'dot-key' }));
    }
    function legend() {
      const items = [];
      if (mode() === 'task') {
        const keys = data.coloured.map((task, i) => [`c${i + 1}`, `k${i + 1}`, task || '(none)']);
        if (points.names.length > data.coloured.length) keys.push(['other', 'k0', 'other tasks']);
        for (const [key, kind, name] of keys) {
          const item = html('button', { class: 'item', type: 'button', 'aria-pressed': String(highlighted === key) }, dot(kind, false), html('bdi', {}, name));
          item.addEventListener('click', () => { highlighted = highlighted === key ? null : key; legend(); draw(); });
          items.push(item);
        }
      } else if (mode() !== 'picked') {
        const q = data.columns[mode()].quantiles;
        items.push(html('span', { class: 'item' }, `lowest ${number(q[0])}`, svg('svg', { width: 110, height: 12, class: 'ramp' },
          ...[0, 1, 2, 3, 4].map((i) => svg('rect', { x: i * 22, width: 22, height: 12, class: `s${i}` }))), `highest ${number(q[100])}; by rank, middle ${number(q[50])}`));
      }
      if (picksOf().length) items.push(html('span', { class: 'item' }, dot(mode() === 'picked' ? colour(state.selection) : 'plain', true), `pick of ${current().name}`));
      if (answered.size) items.push(html('span', { class: 'item' }, svg('svg', { width: 14, height: 14 }, svg('rect', { class: 'square-key', x: 3, y: 3, width: 8, height: 8 })), 'answered'));
      byId('map-legend').replaceChildren(...items);
    }
    onRedraw(() => { draw(); legend(); });
    for (const id of ['map-colour', 'map-task']) byId(id)?.addEventListener('change', () => { draw(); legend(); });
    const inspector = inspect(canvas, {
      find: (x, y) => finder(place, 14)(x, y),
      step,
      place,
      describe,
      busy: () => panning !== null,
      mark: (i) => { if (i !== marked) { marked = i; draw(); } },
    });
    function scaleBy(factor, x = size.width / 2, y = size.height / 2) {
      const k = Math.min(40, Math.max(1, zoom.k * factor));
      const f = k / zoom.k;
      const [cx, cy] = [x - size.width / 2, y - size.height / 2];
      Object.assign(zoom, k === 1 ? { k, x: 0, y: 0 } : { k, x: cx + (zoom.x - cx) * f, y: cy + (zoom.y - cy) * f });
      canvas.style.touchAction = k > 1 ? 'none' : 'auto'; // unzoomed, a finger on the map scrolls the page
      inspector.hide();
      draw();
    }
    for (const button of document.querySelectorAll('[data-zoom]')) {
      button.addEventListener('click', () => scaleBy({ in: 1.6, out: 1 / 1.6, reset: 1e-9 }[button.dataset.zoom]));
    }
    canvas.addEventListener('wheel', (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // plain wheel scrolls the page
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      scaleBy(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    canvas.addEventListener('dblclick', (event) => { const box = canvas.getBoundingClientRect(); scaleBy(2, event.clientX - box.left, event.clientY - box.top); });
    canvas.addEventListener('keydown', (event) => {
      const factor = { '+': 1.6, '=': 1.6, '-': 1 / 1.6, 0: 1e-9 }[event.key];
      if (factor) scaleBy(factor);
    });
    canvas.addEventListener('pointerdown', (event) => {
      if (zoom.k === 1) return;
      panning = { x: event.clientX - zoom.x, y: event.clientY - zoom.y };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!panning) return;
      inspector.hide();
      zoom.x = event.clientX - panning.x;
      zoom.y = event.clientY - panning.y;
      draw();
    });
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { panning = null; });
  }

  // --- score against length ---------------------------------------------------------------------------------------
  const scatter = byId('scatter-canvas');
  if (scatter) {
    let marked = null;
    let place = () => [0, 0];
    const chosenScore = () => byId('scatter-score').value;
    function draw() {
      const { context, width, height } = prepare(scatter);
      const get = style();
      const name = chosenScore();
      const column = data.columns[name];
      const values = points.scores[name];
      const [left, right, top, bottom] = [46, width - 12, 10, height - 38];
      const lengths = data.columns.length.quantiles;
      const [from, to] = [Math.log(Math.max(lengths[0], 1)), Math.log(Math.max(lengths[100], lengths[0] + 1, 2))];
      let [low, high] = [column.quantiles[0], column.quantiles[100]];
      if (high <= low) { low -= 0.5; high += 0.5; }
      place = (i) => [left + ((Math.log(Math.max(points.length[i], 1)) - from) / (to - from)) * (right - left), bottom - (((values[i] ?? low) - low) / (high - low)) * (bottom - top)];
      context.font = '12px system-ui, sans-serif';
      context.fillStyle = get('muted');
      context.strokeStyle = get('line');
      context.lineWidth = 1;
      context.textAlign = 'right';
      for (const t of ticks(low, high, 4)) {
        const y = bottom - ((t - low) / (high - low)) * (bottom - top);
        context.beginPath(); context.moveTo(left, y); context.lineTo(right, y); context.stroke();
        context.fillText(String(t), left - 7, y + 4);
      }
      context.textAlign = 'center';
      for (let power = 1; power <= Math.exp(to); power *= 10) {
        for (const m of width > 560 ? [1, 2, 5] : [1]) {
          const x = left + ((Math.log(m * power) - from) / (to - from)) * (right - left);
          if (x >= left - 1 && x <= right + 1) context.fillText(number(m * power), x, bottom + 16);
        }
      }
      context.fillText(`prompt length, ${data.length_unit} (log)`, (left + right) / 2, height - 5);
      context.globalAlpha = 0.55;
      context.fillStyle = get('pool-dot');
      for (const i of points.sample) { const [x, y] = place(i); context.beginPath(); context.arc(x, y, 2, 0, 7); context.fill(); }
      context.globalAlpha = 0.85;
      context.fillStyle = get(`c${(state.selection % 6) + 1}`);
      context.strokeStyle = get('ring');
      const picks = picksOf();
      for (let n = picks.length - 1; n >= 0; n--) {
        const [x, y] = place(picks[n]);
        context.beginPath(); context.arc(x, y, picks.length > 1000 ? 2.6 : 3.8, 0, 7); context.fill();
        if (picks.length <= 1000) context.stroke();
      }
      context.globalAlpha = 1;
      if (marked !== null) ring(context, ...place(marked), get);
      byId('scatter-rho').textContent = column.rho === null ? '' : `rank correlation ρ = ${column.rho < 0 ? '−' : ''}${Math.abs(column.rho).toFixed(2)}`;
    }
    onRedraw(draw);
    byId('scatter-score').addEventListener('change', draw);
    inspect(scatter, { find: (x, y) => finder(place, 12)(x, y), step, place: (i) => place(i), describe, mark: (i) => { if (i !== marked) { marked = i; draw(); } } });
  }
  choose(state.selection);
}
