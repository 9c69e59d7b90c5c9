'use strict';
// Learning curves, annotations saved and training losses, drawn as SVG with colours from the style sheet.
{
  const { data, html, svg, dash, number, row, ticks, inspect, onRedraw, redraw } = report;
  const BASELINE = -1;
  const kind = (i) => (i === BASELINE ? 'kr' : report.colour(i));
  const style = (i) => (i === BASELINE ? '' : dash(i));
  // Corners and turn of a mark, so that strategies differ in more than colour.
  const SHAPES = [[4, 45], [3, 0], [4, 0], [3, 180], [5, 0], [6, 30]];

  function mark(line, x, y, r, role = 'dot') {
    const look = { class: `${role} ${kind(line.colour)} ${line.reads ? 'hollow' : ''}` };
    if (line.colour === BASELINE) return svg('circle', { ...look, cx: x, cy: y, r });
    const [corners, turn] = SHAPES[line.colour % 6];
    const size = r * { 3: 1.35, 4: 1.25 }[corners] || r * 1.15;
    const at = (k) => (Math.PI / 180) * (turn - 90 + (360 / corners) * k);
    const points = Array.from({ length: corners }, (_, k) => `${(x + size * Math.cos(at(k))).toFixed(1)},${(y + size * Math.sin(at(k))).toFixed(1)}`);
    return svg('polygon', { ...look, points: points.join(' ') });
  }
  const cut = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
  const value = (v) => (v === null ? '–' : String(Number(v.toPrecision(4))));
  const interval = (low, high) => (low === null || high === null ? '' : ` [${value(low)}, ${value(high)}]`);
  const minus = (text) => text.replaceAll('-', '−');

  function frame(picture, box, low, high, y, title) {
    for (const t of ticks(low, high, 8)) {
      picture.append(svg('line', { class: 'gridline', x1: box.left, x2: box.right, y1: y(t), y2: y(t) }),
        svg('text', { x: box.left - 8, y: y(t) + 4, 'text-anchor': 'end' }, minus(String(t))));
    }
    picture.append(svg('line', { class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      svg('text', { x: (box.left + box.right) / 2, y: box.bottom + 38, 'text-anchor': 'middle' }, title));
  }
  function tick(picture, box, x, text) {
    picture.append(svg('line', { class: 'axis', x1: x, x2: x, y1: box.bottom, y2: box.bottom + 5 }),
      svg('text', { x, y: box.bottom + 19, 'text-anchor': 'middle' }, text));
  }
  const canvas = (width, height) => svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' });
  // Labels at the ends of lines, moved apart until none covers another.
  function spread(labels, gap, bottom) {
    labels.sort((a, b) => a.at - b.at);
    labels.forEach((l, i) => { if (i) l.at = Math.max(l.at, labels[i - 1].at + gap); });
    for (let i = labels.length - 1, limit = bottom; i >= 0; i--) { labels[i].at = Math.min(labels[i].at, limit); limit = labels[i].at - gap; }
    return labels;
  }

  // --- learning curves --------------------------------------------------------------------------------------------
  function curves(plot, metric, level) {
    const { budgets, lines } = metric;
    if (!budgets.length) return;
    let view = null;
    function draw() {
      const width = Math.max(plot.clientWidth, 240);
      const roomy = width >= 440;
      const height = roomy ? 310 : 270;
      const longest = Math.min(20, Math.max(...lines.map((l) => l.strategy.length)));
      const box = { left: 52, right: width - (roomy ? 24 + longest * 7 : 12), top: 12, bottom: height - 46 };
      const measured = lines.flatMap((l) => l.points.flatMap((p) => [p.mean, ...p.seeds])).filter((v) => v !== null);
      const ends = lines.flatMap((l) => l.points.flatMap((p) => [p.low, p.high])).filter((v) => v !== null);
      let [low, high] = [Math.min(...measured), Math.max(...measured)];
      // Two seeds have intervals without measure, which would flatten everything else: they leave the figure.
      const most = (high - low || Math.abs(high) * 0.1 || 0.1) * 0.75;
      [low, high] = [Math.max(low - most, Math.min(low, ...ends)), Math.min(high + most, Math.max(high, ...ends))];
      const range = high - low || Math.abs(high) * 0.1 || 0.1;
      const near = metric.base !== null && metric.base > low - 0.6 * range && metric.base < high + 0.6 * range;
      if (near) { low = Math.min(low, metric.base); high = Math.max(high, metric.base); }
      // What cannot be negative has no axis below zero.
      const floor = Math.min(...measured) >= 0 ? -0.015 * range : -Infinity;
      low = Math.max(low - range * 0.07, floor); high += range * 0.07;
      const y = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
      const [from, to] = [Math.log(budgets[0]), Math.log(budgets.at(-1))];
      const inset = 10 + lines.length * 3;
      const x = (b) => (to > from ? box.left + inset + ((Math.log(b) - from) / (to - from)) * (box.right - box.left - 2 * inset) : (box.left + box.right) / 2);
      const gaps = budgets.slice(1).map((b, i) => x(b) - x(budgets[i]));
      const step = Math.min(8, Math.min(60, ...gaps) / (lines.length + 1));
      const aside = (i) => (i - (lines.length - 1) / 2) * step;
      const picture = canvas(width, height);
      frame(picture, box, low, high, y, 'annotations (log scale)');
      let last = -99;
      for (const b of budgets) if (x(b) - last >= 36) { last = x(b); tick(picture, box, last, b.toLocaleString('en')); }
      if (near) {
        const over = y(metric.base) - box.top > 22;
        picture.append(svg('line', { class: 'base', x1: box.left, x2: box.right, y1: y(metric.base), y2: y(metric.base) }),
          svg('text', { class: 'halo', x: box.right - 4, y: y(metric.base) + (over ? -6 : 15), 'text-anchor': 'end' }, `before fine-tuning ${minus(value(metric.base))}`));
      } else if (metric.base !== null) {
        const above = metric.base > high;
        picture.append(svg('text', { class: 'halo', x: box.right - 4, y: above ? box.top + 10 : box.bottom - 7, 'text-anchor': 'end' },
          `before fine-tuning: ${minus(value(metric.base))} ${above ? '↑' : '↓'} off the scale`));
      }
      const [faint, whiskers, paths, dots] = [0, 0, 0, 0].map(() => picture.appendChild(svg('g', {})));
      lines.forEach((line, i) => {
        const at = (p) => x(p.budget) + aside(i);
        paths.append(svg('polyline', { class: `line thin ${kind(line.colour)} ${style(line.colour)}`, points: line.points.map((p) => `${at(p).toFixed(1)},${y(p.mean).toFixed(1)}`).join(' ') }));
        for (const p of line.points) {
          for (const s of p.seeds) faint.append(svg('circle', { class: `seed ${kind(line.colour)}`, cx: at(p) + 0.4 * step, cy: y(s), r: 2.2 }));
          if (p.low !== null && p.high !== null) {
            const [from, to] = [Math.min(y(p.low), box.bottom), Math.max(y(p.high), box.top)];
            whiskers.append(svg('path', { class: `whisker ${kind(line.colour)}`, d: `M${at(p)},${from}V${to}${p.low >= low ? `M${at(p) - 3},${from}h6` : ''}${p.high <= high ? `M${at(p) - 3},${to}h6` : ''}` }));
          }
          dots.append(mark(line, at(p), y(p.mean), 4.2));
        }
      });
      if (roomy) {
        const ends = lines.map((line, i) => ({ line, x: x(line.points.at(-1).budget) + aside(i), from: y(line.points.at(-1).mean), at: y(line.points.at(-1).mean) }));
        for (const l of spread(ends, 15, box.bottom)) {
          picture.append(svg('line', { class: 'gridline', x1: l.x + 7, y1: l.from, x2: box.right + 8, y2: l.at }),
            svg('text', { class: `label ${kind(l.line.colour)}`, x: box.right + 11, y: l.at + 4 }, cut(l.line.strategy, 20)));
        }
      }
      const key = (l) => svg('svg', { width: 28, height: 14, class: 'plot' }, svg('line', { class: `line thin ${kind(l.colour)} ${style(l.colour)}`, x1: 1, x2: 27, y1: 7, y2: 7 }), mark(l, 14, 7, 4));
      plot.parentNode.querySelector('.legend').replaceChildren(...(roomy ? [] : lines.map((l) => html('span', { class: 'item' }, key(l), l.strategy))));
      const cross = picture.appendChild(svg('g', {}));
      plot.replaceChildren(picture);
      view = { x, box, cross };
    }
    onRedraw(draw);
    const sign = metric.better === 'higher' ? -1 : 1;
    inspect(plot, {
      find: (px) => budgets.reduce((best, b) => (Math.abs(view.x(b) - px) < Math.abs(view.x(best) - px) ? b : best)),
      step: (b, by) => (b === null ? (by > 0 ? budgets[0] : budgets.at(-1)) : budgets[Math.min(budgets.length - 1, Math.max(0, budgets.indexOf(b) + by))]),
      place: (b) => [view.x(b), view.box.top + 20],
      describe: (b) => [html('b', {}, `${b.toLocaleString('en')} annotations`),
        ...lines.map((line) => ({ line, p: line.points.find((p) => p.budget === b) })).filter((f) => f.p).sort((l, r) => sign * (l.p.mean - r.p.mean))
          .map(({ line, p }) => row(kind(line.colour), line.strategy, minus(`${value(p.mean)}${interval(p.low, p.high)}`))),
        html('span', { class: 'quote' }, `best first; ${Number((100 * level).toPrecision(4))} % intervals`)],
      mark: (b) => view.cross.replaceChildren(...(b === null ? [] : [svg('line', { class: 'cross', x1: view.x(b), x2: view.x(b), y1: view.box.top, y2: view.box.bottom })])),
    });
  }

  // --- annotations saved ------------------------------------------------------------------------------------------
  // Needing half and needing twice as many lie equally far from needing the same: the axis is the logarithm of the ratio.
  const scaled = (saved) => -Math.log(Math.max(1 - saved, 1e-9));
  const MOST = Math.log(10);
  const MARKS = [0, 0.5, -1, 0.75, -0.5, 0.25, -3, 0.875, -0.25, -7]; // the most important first

  function savings(plot, experiment) {
    const groups = experiment.metrics.filter((m) => m.saved.length);
    const rows = groups.flatMap((m) => m.saved.map((s) => ({ ...s, metric: m.label })));
    if (!rows.length) return;
    let view = null;
    function draw() {
      const width = Math.max(plot.clientWidth, 240);
      const roomy = width >= 620;
      const titled = groups.length > 1;
      const longest = Math.max(...rows.map((r) => Math.min(r.strategy.length, 26)));
      const box = { left: roomy ? 30 + longest * 7.4 : 16, right: width - (roomy ? 168 : 16), top: 26 };
      const known = rows.flatMap((r) => [r.saved, r.low, r.high, r.detectable]).filter((v) => v !== null).map(scaled);
      const low = Math.max(-MOST, Math.min(scaled(-0.5), ...known) * 1.08);
      const high = Math.min(MOST, Math.max(scaled(0.5), ...known) * 1.08);
      const x = (u) => box.left + ((u - low) / (high - low)) * (box.right - box.left);
      const at = [];
      let y = box.top + 6;
      const titles = [];
      rows.forEach((r, i) => {
        if (titled && (i === 0 || rows[i - 1].metric !== r.metric)) { titles.push([r.metric, y + 16]); y += 24; }
        y += roomy ? 30 : 46;
        at.push(y - (roomy ? 12 : 10));
      });
      box.bottom = y + 6;
      const picture = canvas(width, box.bottom + 46);
      const told = [];
      for (const m of MARKS) {
        const px = x(scaled(m));
        if (px < box.left || px > box.right || told.some((t) => Math.abs(t - px) < 52)) continue;
        told.push(px);
        picture.append(svg('line', { class: m === 0 ? 'zero' : 'gridline', x1: px, x2: px, y1: box.top, y2: box.bottom }),
          svg('text', { x: px, y: box.bottom + 18, 'text-anchor': 'middle' }, `${minus(String(100 * m))} %`));
      }
      const zero = x(0);
      const less = Math.max(zero - 8, 84);
      picture.append(svg('text', { x: less, y: 14, 'text-anchor': 'end' }, '← needs more'), svg('text', { x: less + 16, y: 14 }, 'needs fewer →'),
        svg('text', { x: (box.left + box.right) / 2, y: box.bottom + 40, 'text-anchor': 'middle' }, `annotations saved${roomy ? ` against ${experiment.baseline}` : ''} (log of the ratio)`));
      for (const [text, top] of titles) picture.append(svg('text', { class: 'group', x: roomy ? 2 : box.left, y: top }, text));
      rows.forEach((r, i) => {
        const k = kind(r.colour);
        const place = at[i];
        const name = svg('text', { class: 'strategy-name', x: roomy ? box.left - 14 : box.left, y: roomy ? place + 4 : place - 14, 'text-anchor': roomy ? 'end' : 'start' }, cut(r.strategy, 26));
        const text = svg('text', { class: 'told', x: roomy ? box.right + 14 : box.right, y: roomy ? place + 4 : place - 14, 'text-anchor': roomy ? 'start' : 'end' }, r.text);
        picture.append(name, text);
        if (r.detectable !== null && scaled(r.detectable) <= high) picture.append(svg('path', { class: 'detectable', d: `M${x(scaled(r.detectable))},${place - 9}v18` }));
        if (r.saved === null) { picture.append(svg('line', { class: 'unknown', x1: box.left, x2: box.right, y1: place, y2: place })); return; }
        // Open where the interval ends beyond the figure, or where the budgets cannot say how far it goes.
        const openLow = r.low === null || scaled(r.low) < low || r.bound === 'at most';
        const openHigh = r.high === null || scaled(r.high) > high || r.bound === 'at least';
        const a = openLow ? box.left : x(scaled(r.low));
        const b = openHigh ? box.right : x(scaled(r.high));
        picture.append(svg('path', { class: `whisker wide ${k}`, d: `M${a},${place}H${b}${openLow ? `M${a + 7},${place - 5}L${a},${place}l7,5` : `M${a},${place - 5}v10`}${openHigh ? `M${b - 7},${place - 5}L${b},${place}l-7,5` : `M${b},${place - 5}v10`}` }),
          mark(r, Math.max(box.left, Math.min(box.right, x(scaled(r.saved)))), place, 5.5));
      });
      const band = svg('rect', { class: 'at-row', x: 0, width, height: 28, visibility: 'hidden' });
      picture.prepend(band);
      plot.replaceChildren(picture);
      const keys = [];
      if (rows.some((r) => r.detectable !== null)) keys.push(html('span', { class: 'item' }, svg('svg', { width: 14, height: 18, class: 'plot' }, svg('path', { class: 'detectable', d: 'M7,1v16' })), 'smallest saving it could have shown'));
      if (rows.some((r) => r.bound === 'at least' || r.bound === 'at most')) keys.push(html('span', { class: 'item' }, svg('svg', { width: 22, height: 12, class: 'plot' }, svg('path', { class: 'whisker wide kr', d: 'M2,6H20M13,1L20,6l-7,5' })), 'goes on beyond what the budgets can tell'));
      if (rows.some((r) => r.reads)) keys.push(html('span', { class: 'item' }, svg('svg', { width: 14, height: 14, class: 'plot' }, svg('circle', { class: 'dot kr hollow', cx: 7, cy: 7, r: 5 })), 'reads task labels'));
      plot.parentNode.querySelector('.legend').replaceChildren(...keys);
      view = { at, band, left: box.left, right: box.right };
    }
    onRedraw(draw);
    const percents = (v) => (v === null ? '?' : `${minus(String(Math.round(100 * v)))} %`);
    inspect(plot, {
      find: (_, py) => view.at.reduce((best, y, i) => (Math.abs(y - py) < Math.abs(view.at[best] - py) ? i : best), 0),
      step: (i, by) => (i === null ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, i + by))),
      place: (i) => [(view.left + view.right) / 2, view.at[i]],
      describe: (i) => [html('b', {}, rows[i].strategy), html('span', {}, `by ${rows[i].metric}: ${rows[i].text}`),
        ...(rows[i].detectable === null ? [] : [html('span', { class: 'quote' }, `smallest saving it could have shown: ${percents(rows[i].detectable)}`)])],
      mark: (i) => { view.band.setAttribute('visibility', i === null ? 'hidden' : 'visible'); if (i !== null) view.band.setAttribute('y', view.at[i] - 14); },
    });
  }

  // --- training losses --------------------------------------------------------------------------------------------
  function losses(plot, model) {
    const { steps, loss, smooth } = model;
    let view = null;
    onRedraw(() => {
      const width = Math.max(plot.clientWidth, 200);
      const height = 190;
      const box = { left: 44, right: width - 10, top: 8, bottom: height - 44 };
      let [low, high] = [Math.min(...loss), Math.max(...loss)];
      const pad = (high - low) * 0.06 || 0.1;
      low = Math.max(0, low - pad); high += pad;
      const [from, to] = [steps[0], Math.max(steps.at(-1), steps[0] + 1)];
      const x = (s) => box.left + 6 + ((s - from) / (to - from)) * (box.right - box.left - 12);
      const y = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
      const picture = canvas(width, height);
      frame(picture, box, low, high, y, 'step');
      for (const t of ticks(from, to, width > 280 ? 5 : 3)) if (Number.isInteger(t) && t >= from) tick(picture, box, x(t), t.toLocaleString('en'));
      const path = (values) => values.map((v, i) => `${x(steps[i]).toFixed(1)},${y(v).toFixed(1)}`).join(' ');
      picture.append(svg('polyline', { class: `line ${smooth ? 'faint' : 'thin'} ka`, points: path(loss) }));
      if (smooth) picture.append(svg('polyline', { class: 'line thin ka', points: path(smooth) }));
      else if (loss.length < 30) loss.forEach((v, i) => picture.append(svg('circle', { class: 'dot ka', cx: x(steps[i]), cy: y(v), r: 3 })));
      const cross = picture.appendChild(svg('g', {}));
      plot.replaceChildren(picture);
      view = { x, y, box, cross };
    });
    inspect(plot, {
      find: (px) => steps.reduce((best, s, i) => (Math.abs(view.x(s) - px) < Math.abs(view.x(steps[best]) - px) ? i : best), 0),
      step: (i, by) => (i === null ? (by > 0 ? 0 : steps.length - 1) : Math.min(steps.length - 1, Math.max(0, i + by))),
      place: (i) => [view.x(steps[i]), view.y(loss[i])],
      describe: (i) => [html('b', {}, `step ${number(steps[i])}`), html('span', {}, `loss ${value(loss[i])} nats per response token${model.block > 1 ? `, mean of ${model.block} steps` : ''}`),
        ...(smooth ? [html('span', { class: 'quote' }, `moving average of ${model.window} steps: ${value(smooth[i])}`)] : [])],
      mark: (i) => view.cross.replaceChildren(...(i === null ? [] : [svg('circle', { class: 'dot ka', cx: view.x(steps[i]), cy: view.y(loss[i]), r: 4 })])),
    });
  }

  for (const block of document.querySelectorAll('[data-experiment]')) {
    block.addEventListener('toggle', redraw); // what is folded away has no width to draw in
    const experiment = data.experiments[Number(block.dataset.experiment)];
    for (const plot of block.querySelectorAll('.curves')) curves(plot, experiment.metrics[Number(plot.dataset.metric)], experiment.level);
    for (const plot of block.querySelectorAll('.saved')) savings(plot, experiment);
  }
  for (const plot of document.querySelectorAll('.loss')) {
    const model = data.losses.find((m) => m.name === plot.dataset.model);
    if (model) losses(plot, model);
  }
}
