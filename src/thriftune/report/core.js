'use strict';
// Data, small builders, tooltip, theme and the one piece of state: the selection shown. The other scripts draw.
const report = (() => {
  const root = document.documentElement;
  root.dataset.js = '';
  const data = JSON.parse(document.getElementById('data').textContent);
  const byId = (id) => document.getElementById(id);
  const redraws = [];
  const state = { selection: data.selections.length ? data.first : -1 };

  // Text only ever enters the page as text: through these two.
  function html(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.map((c) => (c instanceof Node ? c : String(c))));
    return node;
  }
  function svg(tag, attributes = {}, ...children) {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.map((c) => (c instanceof Node ? c : String(c))));
    return node;
  }
  const colour = (i) => `k${(i % 6) + 1}`;
  const dash = (i) => { const round = Math.floor(i / 6) % 4; return round ? `dash${round}` : ''; };

  const percent = (share) => {
    if (share === 0 || share === 1) return `${100 * share}\u00a0%`;
    const value = 100 * share;
    return `${value.toFixed(value < 0.1 ? 2 : value < 10 || value > 99 ? 1 : 0)}\u00a0%`;
  };
  const number = (value) => {
    if (value === null || value === undefined) return '–';
    const size = Math.abs(value);
    return size >= 1000 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)));
  };

  const row = (kind, name, value) => html('span', { class: 'row' }, html('span', { class: `swatch ${kind}` }), html('span', {}, name), html('span', { class: 'value' }, value));

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const found = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) found.push(Number(t.toPrecision(10)));
    return found;
  }

  const tip = byId('tip');
  function showTip(children, x, y) {
    tip.replaceChildren(...children);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth - 8 ? x - 16 - box.width : x + 16;
    const top = y + 16 + box.height > innerHeight - 8 ? y - 16 - box.height : y + 16;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - box.width - 8))}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }
  const hideTip = () => { tip.hidden = true; };
  addEventListener('scroll', hideTip, { passive: true, capture: true });

  // One way of looking into a figure for mouse, touch and keyboard alike. The model: find(x, y) -> item or null,
  // step(item, by) -> item or null, place(item) -> [x, y], describe(item) -> nodes, mark(item or null).
  function inspect(target, model) {
    let current = null;
    const show = (item) => {
      current = item;
      model.mark?.(item);
      if (item === null) { hideTip(); return; }
      const box = target.getBoundingClientRect();
      const [x, y] = model.place(item);
      showTip(model.describe(item), box.left + x, box.top + y);
    };
    const at = (event) => {
      const box = target.getBoundingClientRect();
      return model.find(event.clientX - box.left, event.clientY - box.top);
    };
    target.tabIndex = 0;
    target.addEventListener('pointermove', (event) => { if (!model.busy?.()) show(at(event)); });
    target.addEventListener('pointerdown', (event) => show(at(event)));
    target.addEventListener('pointerleave', (event) => { if (event.pointerType !== 'touch') show(null); });
    target.addEventListener('blur', () => show(null));
    target.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (by) { show(model.step(current, by)); event.preventDefault(); }
      if (event.key === 'Escape') show(null);
    });
    return { hide: () => { if (current !== null) show(null); } };
  }

  const onRedraw = (draw) => { redraws.push(draw); draw(); };
  const redraw = () => redraws.forEach((draw) => draw());

  function choose(index) {
    state.selection = index;
    const name = index < 0 ? null : data.selections[index].name;
    for (const panel of document.querySelectorAll('.panel')) panel.hidden = panel.dataset.selection !== name;
    for (const row of document.querySelectorAll('.stack tbody tr')) row.classList.toggle('current', row.dataset.selection === name);
    if (index >= 0) {
      byId('selection').selectedIndex = index;
      byId('picker-swatch').className = `swatch ${colour(index)}`;
    }
    hideTip();
    redraw();
  }
  const current = () => (state.selection < 0 ? null : data.selections[state.selection]);
  byId('selection')?.addEventListener('change', (event) => choose(event.target.selectedIndex));
  for (const row of document.querySelectorAll('.stack tbody tr')) {
    row.addEventListener('click', () => choose(data.selections.findIndex((s) => s.name === row.dataset.selection)));
  }

  for (const button of document.querySelectorAll('[data-open]')) {
    button.addEventListener('click', () => {
      const picks = [...button.closest('.panel').querySelectorAll('.pick')];
      const open = picks.some((p) => !p.open);
      for (const pick of picks) pick.open = open;
      button.textContent = open ? 'Close all' : 'Open all';
    });
  }

  const dark = matchMedia('(prefers-color-scheme: dark)');
  const theme = byId('theme');
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : dark.matches);
  const setTheme = (value) => {
    if (value) root.dataset.theme = value; else delete root.dataset.theme;
    theme.textContent = isDark() ? '☀' : '☾';
    redraw();
  };
  theme.addEventListener('click', () => setTheme(isDark() ? 'light' : 'dark'));
  dark.addEventListener('change', () => setTheme(root.dataset.theme));
  let beforePrint;
  addEventListener('beforeprint', () => { beforePrint = root.dataset.theme; setTheme('light'); });
  addEventListener('afterprint', () => setTheme(beforePrint));
  let resizing;
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth === width) return; // a phone's address bar coming and going
    width = innerWidth;
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(redraw);
  });

  // Tokens of a draft answer: point, tap, or step through with the arrow keys.
  for (const draft of document.querySelectorAll('.draft')) {
    const tokens = [...draft.querySelectorAll('[data-h]')];
    let at = -1;
    const show = (index) => {
      tokens[at]?.classList.remove('at');
      at = index;
      if (at < 0) { hideTip(); return; }
      const token = tokens[at];
      token.classList.add('at');
      const box = token.getClientRects()[0] ?? token.getBoundingClientRect();
      const choices = Math.exp(Number(token.dataset.h));
      showTip([
        html('b', {}, token.classList.contains('stop') ? 'end of the answer' : JSON.stringify(token.textContent)),
        html('span', {}, `entropy ${token.dataset.h} nats, like an even choice among ${choices < 10 ? choices.toFixed(1) : Math.round(choices)}; margin score ${token.dataset.m}`),
      ], box.left, box.bottom - 8);
    };
    draft.addEventListener('pointerover', (event) => show(tokens.indexOf(event.target.closest('[data-h]'))));
    draft.addEventListener('pointerdown', (event) => show(tokens.indexOf(event.target.closest('[data-h]'))));
    draft.addEventListener('pointerleave', (event) => { if (event.pointerType !== 'touch') show(-1); });
    draft.addEventListener('blur', () => show(-1));
    draft.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by && tokens.length) { show(Math.max(0, Math.min(tokens.length - 1, at + by))); event.preventDefault(); }
      if (event.key === 'Escape') show(-1);
    });
  }

  setTheme(null);
  return { data, byId, html, svg, colour, dash, percent, number, row, ticks, inspect, onRedraw, redraw, choose, current, state };
})();
