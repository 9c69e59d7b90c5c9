// Keys. Letters work while nothing is being written (Escape leaves the editor); with Alt they work always.

import {dialog, dialogOpen, el} from './dom.js'

export const KEYS = [
  ['Ctrl ↵', 'submit', 'Submit the answer and go to the next prompt', '⌘ ↵ on a Mac'],
  ['Esc', 'leave', 'Leave the editor, so that letters are keys', ''],
  ['e', 'edit', 'Write', 'or Enter'],
  ['d', 'draft', 'Put the draft into the editor', ''],
  ['p', 'preview', 'Preview, and back', ''],
  ['m', 'format', 'Show prompt and draft formatted, or as written', ''],
  ['s', 'skip', 'Skip the prompt', ''],
  ['f', 'flag', 'Flag it as unanswerable or a duplicate', ''],
  ['u', 'undo', 'Undo the last submit, skip or flag', ''],
  ['b', 'back', 'Back along what you did', 'or ←'],
  ['n', 'next', 'Forward; from the newest: put this one off', 'or →'],
  ['/', 'find', 'Find a prompt', ''],
  ['g', 'guidelines', 'Guidelines', ''],
  ['o', 'standing', 'Progress', ''],
  ['r', 'review', 'Review answers', ''],
  ['1 … 9', '', 'In a review: take that answer', ''],
  ['w', 'work', 'Back to work', ''],
  ['?', 'help', 'This list', ''],
]

const BY_KEY = {...Object.fromEntries(KEYS.map(([key, act]) => [key, act])), ArrowLeft: 'back', ArrowRight: 'next', Enter: 'edit'}
for (let digit = 1; digit <= 9; digit += 1) BY_KEY[digit] = `take${digit}`
// On a Mac, Alt makes other characters of letters: then the place of the key counts.
const letter = (event) => (event.altKey && event.code.startsWith('Key') ? event.code.slice(3).toLowerCase() : event.key)

let single = true
try { single = localStorage.getItem('thriftune:keys') !== 'alt' } catch { /* forbidden */ }

/** @param {Record<string, () => void>} acts by name */
export function listen(acts) {
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.isComposing) return
    const run = (name) => {
      if (!acts[name]) return
      event.preventDefault()
      acts[name]()
    }
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter') {
      if (!dialogOpen()) run('submit')
      return
    }
    if (event.ctrlKey || event.metaKey || dialogOpen()) return
    const {target} = event
    const writing = target.matches?.('textarea, input, select')
    if (event.key === 'Escape' && writing) {
      target.blur()
      document.getElementById('view').focus({preventScroll: true})
      event.preventDefault()
      return
    }
    if (writing && !event.altKey) return
    if (!single && !event.altKey) return
    // Enter and arrows keep their meaning on buttons and where there is something to scroll.
    if (event.key === 'Enter' && target.closest?.('button, a, summary')) return
    if (event.altKey && event.key.startsWith('Arrow')) return
    run(BY_KEY[letter(event)])
  })
  // Buttons name what they do, and the same functions do it.
  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-do]')
    if (button && !button.disabled) acts[button.dataset.do]?.()
  })
}

export function help() {
  const box = el('input', {type: 'checkbox', id: 'single', ...(single ? {checked: true} : {})})
  box.addEventListener('change', () => {
    single = box.checked
    try { localStorage.setItem('thriftune:keys', single ? 'single' : 'alt') } catch { /* forbidden */ }
  })
  dialog('Keys', el('table', {class: 'keys'}, el('tbody', {}, KEYS.map(([key, , what, or]) =>
    el('tr', {}, el('th', {scope: 'row'}, el('kbd', {}, key)), el('td', {}, what, or && el('small', {}, ` ${or}`)))))),
  el('p', {class: 'faint'}, 'While you write, hold Alt with a letter.'),
  el('p', {}, box, el('label', {for: 'single'}, ' Letters work without Alt when nothing is being written')))
}
