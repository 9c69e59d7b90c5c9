'use strict';
// Line, bar and dot figures, drawn as SVG with colours from the style sheet.
{
  const { data, byId, html, svg, colour, dash, percent, number, row, ticks, inspect, onRedraw, current, state } = report;

  function logTicks(low, high) {
    const found = [];
    for (let power = 1; power <= high; power *= 10) for (const m of [1, 2, 5]) if (m * power >= low && m * power <= high) found.push(m * power);
    return found;
  }

  // --- coverage ---------------------------------------------------------------------------------------------------
  const plot = byId('coverage-plot');
  if (plot && data.coverage) {
    const { budgets, random, selections } = data.coverage;
    let scale = 'log';
    let view = null;
    const names = data.selections.map((s) => s.name);

    function draw() {
      const width = Math.max(plot.clientWidth, 260);
      const roomy = width >= 620;
      const height = roomy ? 380 : 280;
      const margin = { top: 28, right: roomy ? 184 : 14, bottom: 44, left: 50 };
      const first = scale === 'log' && budgets[0] === 0 ? 1 : 0;
      const last = budgets.length - 1;
      const all = [...random.low.slice(first), ...random.high.slice(first), ...names.flatMap((n) => selections[n].slice(first))];
      let low = Math.min(...all);
      let high = Math.max(...all);
      const pad = (high - low) * 0.06 || 0.05;
      low = Math.max(0, low - pad); high += pad;
      const [from, to] = [budgets[first], Math.max(budgets[last], budgets[first] + 1)];
      const position = scale === 'log' ? (b) => Math.log(b / from) / Math.log(to / from) : (b) => (b - from) / (to - from);
      const x = (b) => margin.left + position(b) * (width - margin.left - margin.right);
      const y = (v) => margin.top + (1 - (v - low) / (high - low)) * (height - margin.top - margin.bottom);
      const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' });
      for (const t of ticks(low, high, 5)) {
        picture.append(svg('line', { class: 'gridline', x1: margin.left, x2: width - margin.right, y1: y(t), y2: y(t) }),
          svg('text', { x: margin.left - 8, y: y(t) + 4, 'text-anchor': 'end' }, String(t)));
      }
      const marks = scale === 'log' ? logTicks(from, to) : ticks(from, to, roomy ? 8 : 4).filter((t) => Number.isInteger(t));
      let lastX = -99;
      for (const t of marks) {
        if (x(t) - lastX < 34) continue;
        lastX = x(t);
        picture.append(svg('line', { class: 'axis', x1: x(t), x2: x(t), y1: height - margin.bottom, y2: height - margin.bottom + 5 }),
          svg('text', { x: x(t), y: height - margin.bottom + 19, 'text-anchor': 'middle' }, t.toLocaleString('en')));
      }
      picture.append(svg('line', { class: 'axis', x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }),
        svg('text', { x: (margin.left + width - margin.right) / 2, y: height - 6, 'text-anchor': 'middle' }, 'budget (picks)'),
        svg('text', { x: 2, y: 12 }, 'mean distance to the nearest pick'));
      const points = (values, upTo = values.length) => values.slice(first, upTo).map((v, i) => `${x(budgets[first + i]).toFixed(1)},${y(v).toFixed(1)}`);
      picture.append(svg('polygon', { class: 'band', points: [...points(random.low), ...points(random.high).reverse()].join(' ') }));
      const lines = [{ kind: 'k0', style: 'dash1', name: 'random (mean)', values: random.mean, index: -1 },
        ...names.map((name, i) => ({ kind: colour(i), style: dash(i), name, values: selections[name], index: i }))];
      // The one chosen is drawn last, over the others.
      for (const l of [...lines].sort((a, b) => (a.index === state.selection) - (b.index === state.selection))) {
        if (l.values.length <= first) continue;
        const end = l.values.length - 1;
        picture.append(svg('polyline', { class: `line ${l.kind} ${l.style} ${l.index === state.selection ? 'current' : ''}`, points: points(l.values).join(' ') }),
          svg('circle', { class: `dot ${l.kind}`, cx: x(budgets[end]), cy: y(l.values[end]), r: 4 }));
      }
      if (roomy) {
        const labels = lines.filter((l) => l.values.length > first).map((l) => ({ ...l, at: y(l.values.at(-1)) })).sort((a, b) => a.at - b.at);
        labels.forEach((l, i) => { if (i) l.at = Math.max(l.at, labels[i - 1].at + 16); });
        const over = labels.length ? labels.at(-1).at - (height - margin.bottom) : 0;
        for (let i = labels.length - 1, limit = height - margin.bottom; over > 0 && i >= 0; i--) { labels[i].at = Math.min(labels[i].at, limit); limit = labels[i].at - 16; }
        for (const l of labels) {
          const end = l.values.length - 1;
          const name = l.name.length > 22 ? `${l.name.slice(0, 21)}…` : l.name;
          picture.append(svg('line', { class: 'gridline', x1: x(budgets[end]) + 6, y1: y(l.values[end]), x2: width - margin.right + 12, y2: l.at }),
            svg('text', { class: `label ${l.kind}`, x: width - margin.right + 15, y: l.at + 4 }, name));
        }
      }
      const cross = svg('g', {});
      picture.append(cross);
      plot.replaceChildren(picture);
      const key = (l) => svg('svg', { width: 26, height: 10, class: 'plot' }, svg('line', { class: `line ${l.kind} ${l.style}`, x1: 1, x2: 25, y1: 5, y2: 5 }));
      byId('coverage-legend').replaceChildren(
        ...(roomy ? [] : lines.map((l) => html('span', { class: `item ${l.kind}` }, key(l), l.name))),
        html('span', { class: 'item' }, svg('svg', { width: 26, height: 12, class: 'plot' }, svg('rect', { class: 'band', width: 26, height: 12 })), 'lowest to highest of the random orders'),
      );
      view = { x, y, first, last, cross, height, margin, lines };
    }
    onRedraw(draw);
    inspect(plot, {
      find: (px) => {
        let best = view.first;
        for (let i = view.first; i <= view.last; i++) if (Math.abs(view.x(budgets[i]) - px) < Math.abs(view.x(budgets[best]) - px)) best = i;
        return best;
      },
      step: (i, by) => (i === null ? (by > 0 ? view.first : view.last) : Math.min(view.last, Math.max(view.first, i + by))),
      place: (i) => [view.x(budgets[i]), view.margin.top + 20],
      describe: (i) => [html('b', {}, `${budgets[i].toLocaleString('en')} picks`),
        row('k0', 'random', `${random.mean[i].toFixed(3)} (${random.low[i].toFixed(3)}–${random.high[i].toFixed(3)})`),
        ...names.map((n, k) => ({ k, n, v: selections[n][i] })).filter((s) => s.v !== undefined).sort((a, b) => a.v - b.v)
          .map(({ k, n, v }) => row(colour(k), n, `${v.toFixed(3)} (${v <= random.mean[i] ? '−' : '+'}${percent(Math.abs(v / (random.mean[i] || 1) - 1))})`))],
      mark: (i) => {
        view.cross.replaceChildren();
        if (i === null) return;
        const at = view.x(budgets[i]);
        view.cross.append(svg('line', { class: 'cross', x1: at, x2: at, y1: view.margin.top, y2: view.height - view.margin.bottom }));
        for (const l of view.lines) if (l.values[i] !== undefined) view.cross.append(svg('circle', { class: `dot ${l.kind}`, cx: at, cy: view.y(l.values[i]), r: 4.5 }));
      },
    });
    for (const button of document.querySelectorAll('[data-axis]')) {
      button.addEventListener('click', () => {
        scale = button.dataset.axis;
        for (const b of document.querySelectorAll('[data-axis]')) b.setAttribute('aria-pressed', String(b === button));
        draw();
      });
    }
  }

  // --- histograms -------------------------------------------------------------------------------------------------
  for (const [name, column] of Object.entries(data.columns)) {
    const figure = html('div', { class: 'plot', role: 'img', 'aria-label': `Distribution of ${column.label}. Arrow keys step through its bars.` });
    const rho = column.rho === null ? '' : `ρ ${column.rho < 0 ? '−' : '+'}${Math.abs(column.rho).toFixed(2)}`;
    byId('histograms').append(html('figure', { class: 'card small', 'data-column': name },
      html('h3', {}, html('span', { class: `rho ${Math.abs(column.rho ?? 0) >= 0.3 ? 'drift' : ''}` }, rho), column.label,
        html('small', {}, column.unit ? `, ${column.unit}` : '')),
      html('p', {}, html('code', {}, name === 'length' ? '' : name), name === 'length' ? '' : ' – ', column.meaning), figure));
    const total = column.pool.reduce((a, b) => a + b, 0);
    let view = null;
    onRedraw(() => {
      const width = Math.max(figure.clientWidth, 200);
      const height = 130;
      const [top, bottom] = [8, height - 20];
      const bins = column.pool.length;
      const picks = current() ? column.picks[current().name] : null;
      const picked = picks ? picks.reduce((a, b) => a + b, 0) : 0;
      const most = Math.max(...column.pool.map((c) => c / total), ...(picked ? picks.map((c) => c / picked) : []));
      const x = (i) => 1 + (i / bins) * (width - 2);
      const y = (share) => bottom - (share / most) * (bottom - top);
      const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' });
      const bars = column.pool.map((c, i) => svg('rect', { class: 'bin', x: x(i) + 0.5, width: Math.max(x(1) - x(0) - 1, 1), y: y(c / total), height: bottom - y(c / total) }));
      picture.append(...bars);
      if (picked) {
        let path = `M${x(0)},${bottom}`;
        picks.forEach((c, i) => { path += `V${y(c / picked).toFixed(1)}H${x(i + 1).toFixed(1)}`; });
        picture.append(svg('path', { class: `outline ${colour(state.selection)}`, d: `${path}V${bottom}Z` }));
      }
      picture.append(svg('line', { class: 'axis', x1: 0, x2: width, y1: bottom, y2: bottom }));
      [[0, 'start'], [bins / 2, 'middle'], [bins, 'end']].forEach(([i, anchor]) => picture.append(svg('text', { x: x(i), y: height - 5, 'text-anchor': anchor }, number(column.edges[i]))));
      figure.replaceChildren(picture);
      view = { x, bars, bins, picks, picked, bottom, width };
    });
    inspect(figure, {
      find: (px) => Math.max(0, Math.min(view.bins - 1, Math.floor(((px - 1) / (view.width - 2)) * view.bins))),
      step: (i, by) => (i === null ? (by > 0 ? 0 : view.bins - 1) : Math.max(0, Math.min(view.bins - 1, i + by))),
      place: (i) => [view.x(i + 0.5), view.bottom - 30],
      describe: (i) => {
        const from = i === 0 ? column.low : column.edges[i];
        const to = i === view.bins - 1 ? column.high : column.edges[i + 1];
        return [html('b', {}, `${number(from)} to ${number(to)} ${column.unit}`), row('k0', 'pool', `${column.pool[i].toLocaleString('en')} (${percent(column.pool[i] / total)})`),
          ...(view.picked ? [row(colour(state.selection), current().name, `${view.picks[i].toLocaleString('en')} (${percent(view.picks[i] / view.picked)})`)] : [])];
      },
      mark: (i) => view.bars.forEach((bar, k) => bar.classList.toggle('at', k === i)),
    });
  }

  // --- tasks ------------------------------------------------------------------------------------------------------
  const tasks = byId('task-plot');
  if (tasks) {
    onRedraw(() => {
      const chosen = current();
      const shares = data.tasks.map((t) => ({ name: t.task || '(none)', pool: t.share, ...t.picks[chosen.name], picked: t.picks[chosen.name].share }));
      const most = Math.max(...shares.map((s) => Math.max(s.pool, s.picked)), 1e-9) * 1.02;
      const at = (share) => `${(100 * share) / most}%`;
      tasks.replaceChildren(...shares.map((s) => html('div', { class: `task ${colour(state.selection)}` },
        html('bdi', { class: 'name', title: s.name }, s.name),
        svg('svg', { 'aria-hidden': 'true' }, svg('line', { class: 'track', x1: 0, x2: '100%', y1: 10, y2: 10 }), svg('line', { class: 'span', x1: at(s.pool), x2: at(s.picked), y1: 10, y2: 10 }),
          svg('circle', { class: 'ring', cx: at(s.pool), cy: 10, r: 5 }), svg('circle', { class: 'dot', cx: at(s.picked), cy: 10, r: 4.5 })),
        html('span', { class: 'n' }, `${percent(s.pool)} → ${percent(s.picked)}`))));
    });
  }
}
