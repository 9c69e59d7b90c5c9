// Finding a prompt, and passing one.

import {get} from './api.js'
import {dialog, el, fill, notice} from './dom.js'

const STATES = [['all', 'All'], ['open', 'Not done by me'], ['mine', 'Mine'], ['skipped', 'Skipped by me']]
const SAID = {new: '', draft: 'Begun', final: 'Answered', skipped: 'Skipped'}

/** A dialog that finds prompts by words; `open` gets the id of the chosen one. */
export function find(place, open, first = 'all') {
  let state = first
  let asked = 0
  const input = el('input', {type: 'search', id: 'find', 'aria-label': 'Words in the prompt, its id or your answer',
    placeholder: 'Words in the prompt, its id or your answer', autocomplete: 'off'})
  const results = el('ol', {class: 'found', 'aria-label': 'Prompts found'})
  const total = el('p', {class: 'faint', role: 'status'})
  const filters = el('div', {class: 'tabs', role: 'group', 'aria-label': 'Which prompts'}, STATES.map(([key, label]) =>
    el('button', {type: 'button', 'data-state': key, 'aria-pressed': String(key === state), onclick: () => {
      state = key
      for (const b of filters.children) b.setAttribute('aria-pressed', String(b.dataset.state === key))
      look()
    }}, label)))
  const box = dialog('Find a prompt', input, filters, total, results)

  async function look() {
    const mine = ++asked
    let reply
    try {
      reply = await get('find', {name: place.name, query: input.value, state})
    } catch (error) {
      return notice(error.message, {bad: true})
    }
    if (mine !== asked) return // an answer to an older question
    const {items} = reply
    total.textContent = reply.total > items.length ? `${items.length} of ${reply.total} shown` : `${reply.total} found`
    fill(results, items.map((item) => el('li', {}, el('button', {type: 'button', class: 'hit', onclick: () => {
      box.close()
      open(item.id)
    }}, el('span', {class: 'rank'}, item.rank), el('span', {class: 'snippet', dir: 'auto'}, item.snippet || '(empty)'),
    el('span', {class: `badge ${item.status}`}, item.flag ?? SAID[item.status])))))
  }

  const buttons = () => [...results.querySelectorAll('button')]
  box.addEventListener('keydown', (event) => {
    const list = buttons()
    const at = list.indexOf(document.activeElement)
    if (event.key === 'Escape') box.close() // which a search field keeps for itself
    else if (event.key === 'Enter' && document.activeElement === input) list[0]?.click()
    else if (event.key === 'ArrowDown') (list[at + 1] ?? list[at])?.focus()
    else if (event.key === 'ArrowUp') (at > 0 ? list[at - 1] : input).focus()
    else return
    event.preventDefault()
  })
  input.addEventListener('input', look)
  input.focus()
  look()
}

const WAYS = [
  ['', 'Skip it', 'It is not for me; somebody else may answer it.'],
  ['unanswerable', 'Unanswerable', 'Nobody can answer it as it stands: the next of the ranking takes its place.'],
  ['duplicate', 'Duplicate', 'Another prompt asks the same: the next of the ranking takes its place.'],
]

/** Ask how and why a prompt is passed; `pass` gets the reason and the flag (null for a plain skip). */
export function passing(flag, pass) {
  const reason = el('input', {type: 'text', id: 'reason', maxlength: '2000', autocomplete: 'off'})
  const ways = WAYS.map(([value, title, what]) => el('label', {class: 'way'},
    el('input', {type: 'radio', name: 'way', value, ...(value === flag ? {checked: true} : {})}),
    el('span', {}, el('strong', {}, title), el('small', {}, what))))
  const box = dialog('Pass this prompt', el('form', {method: 'dialog', onsubmit: (event) => {
    event.preventDefault()
    const chosen = event.target.querySelector('input[name=way]:checked').value
    box.close()
    pass(reason.value.trim(), chosen || null)
  }}, el('fieldset', {}, el('legend', {class: 'unseen'}, 'How'), ways),
  el('label', {for: 'reason'}, 'Why ', el('small', {}, '(for whoever reviews it)')), reason,
  el('p', {class: 'row end'}, el('button', {type: 'submit', class: 'primary'}, 'Pass it ', el('kbd', {}, '↵')))))
  box.querySelector('input:checked').focus()
}
