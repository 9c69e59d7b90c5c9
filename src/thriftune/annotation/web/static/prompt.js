// What is to be answered: the chat turn by turn, and the model's draft.

import {el} from './dom.js'
import {markdown} from './markdown.js'

const ROLES = {system: 'System', user: 'User', assistant: 'Assistant', tool: 'Tool'}

// As written is what the model reads; formatted is what a person may like better.
let formatted = false
try { formatted = localStorage.getItem('thriftune:formatted') === '1' } catch { /* forbidden */ }

export const isFormatted = () => formatted

export function toggleFormatted() {
  formatted = !formatted
  try { localStorage.setItem('thriftune:formatted', formatted ? '1' : '0') } catch { /* forbidden */ }
}

export function text(content, kind = 'text') {
  return formatted
    ? el('div', {class: `${kind} prose`, dir: 'auto'}, markdown(content))
    : el('div', {class: kind, dir: 'auto'}, content)
}

export function turns(list) {
  if (list.length === 1 && list[0].role === 'user') return [el('article', {class: 'turn'}, text(list[0].content))]
  return list.map(({role, content}, at) => el('article', {class: `turn ${at === list.length - 1 ? 'last' : 'earlier'}`},
    el('h3', {class: 'role'}, ROLES[role] ?? role), text(content)))
}

export function draft(item, use) {
  if (!item.draft) return null
  return el('section', {class: 'draft', 'aria-label': 'Draft answer'},
    el('header', {}, el('h3', {}, `Draft by ${item.draft.by}`),
      el('button', {type: 'button', id: 'use-draft', 'data-do': 'draft', onclick: use}, 'Use it ', el('kbd', {}, 'd'))),
    text(item.draft.text))
}
