// The start: who is there, what the address asks for, what keys and buttons do.

import {get} from './api.js'
import {byId, dialog, el, fill, notice} from './dom.js'
import {find, passing} from './find.js'
import {help, listen} from './keys.js'
import {markdown} from './markdown.js'
import {Review} from './review.js'
import {meter, standing} from './standing.js'
import {Work} from './work.js'

const view = byId('view')
const complain = (error) => notice(error.message, {bad: true})
const place = {study: '', name: ''}
let work = null
let review = null
let reviewing = false

function remembered() {
  try { return localStorage.getItem('thriftune:name') ?? '' } catch { return '' }
}

/** Ask who is there. */
function ask(names, then) {
  const input = el('input', {id: 'name', type: 'text', maxlength: '60', required: true, autocomplete: 'off',
    list: 'names', value: remembered(), dir: 'auto'})
  const box = dialog('Who is answering?', el('form', {method: 'dialog', onsubmit: (event) => {
    event.preventDefault()
    const name = input.value.trim().replace(/\s+/g, ' ').normalize('NFC')
    if (!name) return
    try { localStorage.setItem('thriftune:name', name) } catch { /* forbidden */ }
    box.close()
    then(name)
  }}, el('p', {}, 'Your answers carry your name. Use the same one every time.'),
  el('label', {for: 'name'}, 'Your name'), input,
  el('datalist', {id: 'names'}, names.map((name) => el('option', {value: name}))),
  el('p', {class: 'row end'}, el('button', {type: 'submit', class: 'primary'}, 'Begin ', el('kbd', {}, '↵')))))
  input.focus()
  input.select()
  return box
}

function guidelines(text) {
  const pane = byId('guidelines')
  byId('open-guidelines').hidden = !text
  if (text) fill(pane, el('div', {class: 'prose'}, markdown(text)))
}

function toggleGuidelines() {
  const pane = byId('guidelines')
  if (byId('open-guidelines').hidden) return notice('There are no guidelines: put a guidelines.md into the study.')
  pane.hidden = !pane.hidden
  byId('open-guidelines').setAttribute('aria-expanded', String(!pane.hidden))
  document.body.classList.toggle('guided', !pane.hidden)
  try { localStorage.setItem('thriftune:guided', pane.hidden ? '0' : '1') } catch { /* forbidden */ }
}

/** What the address says: a prompt, the reviews, or whatever is next. */
async function route() {
  const [, what, id] = location.hash.split('/')
  reviewing = what === 'review'
  try {
    if (reviewing) await review.list()
    else if (what === 'prompt' && id) await work.open(decodeURIComponent(id)).catch(() => work.next())
    else await work.next()
  } catch (error) {
    complain(error)
  }
}

/** Only at work: from the reviews, back to it first. */
const atWork = (act) => async () => {
  try {
    if (reviewing) {
      reviewing = false
      await (work.item ? work.open(work.item.id) : work.next())
    } else {
      await act()
    }
  } catch (error) {
    complain(error)
  }
}

const openPrompt = (id) => {
  reviewing = false
  work.open(id).catch(complain)
}

const acts = {
  submit: () => (reviewing ? review.submit() : work.send().catch(complain)),
  edit: () => (reviewing ? review.editor : work.editor)?.focus(),
  draft: atWork(() => work.useDraft()),
  preview: () => {
    const editor = reviewing ? review.editor : work.editor
    editor?.preview(!editor.previewing)
  },
  format: atWork(() => work.format()),
  skip: atWork(() => work.item && passing('', (...how) => work.skip(...how).catch(complain))),
  flag: atWork(() => work.item && passing('unanswerable', (...how) => work.skip(...how).catch(complain))),
  undo: atWork(() => work.undo()),
  back: atWork(() => work.step(-1)),
  next: atWork(() => work.step(1)),
  work: atWork(() => {}),
  find: () => find(place, openPrompt),
  skipped: () => find(place, openPrompt, 'skipped'),
  guidelines: toggleGuidelines,
  standing,
  review: () => {
    reviewing = true
    work.leaving().then(() => review.list()).catch(complain)
  },
  help,
  person: () => get('study').then(({names}) => ask(names, (name) => {
    if (name !== place.name) work.leaving().then(() => location.reload())
  })).catch(complain),
}

async function start() {
  let about
  try {
    about = await get('study')
  } catch (error) {
    return complain(error)
  }
  place.study = `${about.study}/${about.selection}`
  byId('study').textContent = about.study
  byId('selection').textContent = about.selection
  document.title = `${about.study} · annotate`
  guidelines(about.guidelines)
  const begin = (name) => {
    place.name = name
    byId('person').textContent = name
    byId('person').title = 'Somebody else?'
    work = new Work(place, view, meter)
    review = new Review(place, view)
    listen(acts)
    for (let digit = 1; digit <= 9; digit += 1) acts[`take${digit}`] = () => reviewing && review.take(digit)
    addEventListener('popstate', route)
    // Another tab of the same person may have gone on.
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden && !reviewing && work.item && !work.saving.dirty) work.freshen().catch(() => {})
    })
    route()
    let guided = false
    try { guided = localStorage.getItem('thriftune:guided') === '1' } catch { /* forbidden */ }
    if (guided && about.guidelines && innerWidth > 1100) toggleGuidelines()
  }
  const name = remembered()
  if (name) begin(name)
  else ask(about.names, begin).addEventListener('close', () => { if (!place.name) fill(view, el('div', {class: 'blank'}, el('p', {}, 'Reload the page to begin.'))) })
}

start()
