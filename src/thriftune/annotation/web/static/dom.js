// Building the page. Everything that people or models wrote goes in as text nodes: it can never become HTML.

/** A new element: el('p', {class: 'x', onclick: f}, 'text', child). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value)
    else node.setAttribute(name, value === true ? '' : value)
  }
  add(node, children)
  return node
}

export function add(node, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) node.append(child)
  }
  return node
}

/** Put `children` in place of what is in `node`. */
export function fill(node, ...children) {
  node.replaceChildren()
  return add(node, children)
}

export const byId = (id) => document.getElementById(id)

/** Say something to people who do not see the page. */
export function tell(text) {
  byId('told').textContent = text
}

/** A line above the work; with `actions` ([label, function]) it stays until one is taken, else it goes by itself. */
export function notice(text, {bad = false, actions = []} = {}) {
  const bar = byId('notice')
  clearTimeout(notice.timer)
  if (!text) return fill(bar)
  const close = () => fill(bar)
  const buttons = actions.map(([label, act]) =>
    el('button', {type: 'button', onclick: () => { close(); act() }}, label))
  fill(bar, el('p', {class: bad ? 'bad' : ''}, el('span', {}, text), ...buttons,
    el('button', {type: 'button', class: 'quiet', 'aria-label': 'Close this message', onclick: close}, '×')))
  if (!bad && !actions.length) notice.timer = setTimeout(close, 6000)
  return bar
}

/** A dialog with the browser's own focus trap and Escape; gone when closed. Returns the element. */
export function dialog(title, ...children) {
  const before = document.activeElement
  const box = el('dialog', {'aria-label': title, class: 'box', tabindex: '-1'}, el('div', {class: 'inside'},
    el('header', {}, el('h2', {}, title),
      el('button', {type: 'button', class: 'quiet close', 'aria-label': 'Close', onclick: () => box.close()}, '×')),
    ...children))
  box.addEventListener('close', () => {
    box.remove()
    if (before && before.isConnected) before.focus()
  })
  // A click beside the box closes it; one that began inside (selecting text) does not.
  box.addEventListener('pointerdown', (event) => { if (event.target === box) box.close() })
  document.body.append(box)
  box.showModal()
  box.focus() // not the button that closes it, which comes first
  return box
}

export const dialogOpen = () => document.querySelector('dialog[open]') !== null

/** "4 min", "1.5 h": short and honest, not exact. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–'
  if (seconds < 90) return `${Math.round(seconds)} s`
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`
  return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`
}

export const percent = (share) => (share === null ? '–' : `${Math.round(share * 100)} %`)
