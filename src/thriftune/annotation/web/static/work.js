// The work: one prompt, its draft, the answer.

import {Refused, get, post} from './api.js'
import {Autosave} from './autosave.js'
import {Clock} from './clock.js'
import {dialog, el, fill, notice, tell} from './dom.js'
import {Editor} from './editor.js'
import {draft, isFormatted, toggleFormatted, turns} from './prompt.js'

const SAVED = {clean: '', waiting: 'Saving…', saved: 'Saved', failed: 'Not saved: kept in this browser'}
const STATUS = {final: 'Answered', skipped: 'Skipped'}

export class Work {
  /** @param {object} place study and name @param {HTMLElement} view @param {(counts: object) => void} counted */
  constructor(place, view, counted) {
    Object.assign(this, {place, view, counted})
    this.item = null
    this.clock = new Clock()
    this.editor = new Editor((text) => this.saving.change(text))
    this.saving = new Autosave(place, this.clock, (state, error) => this.showSaved(state, error),
      (error) => this.conflict(error), (names) => this.taken(names))
    this.state = el('p', {class: 'state', id: 'saved'})
    this.submit = el('button', {type: 'button', class: 'primary', id: 'submit', 'data-do': 'submit'},
      'Submit', el('span', {class: 'more'}, ' and next '), el('kbd', {}, navigator.platform.startsWith('Mac') ? '⌘ ↵' : 'Ctrl ↵'))
  }

  async next(after = null) {
    await this.leaving()
    this.arrive(await post('next', {name: this.place.name, after}))
  }

  async open(id) {
    await this.leaving()
    this.arrive(await post('open', {name: this.place.name, id}))
  }

  /** The same prompt again, where another window of the person changed it meanwhile. */
  async freshen() {
    const {id} = this.item
    const {item, counts} = await post('open', {name: this.place.name, id})
    this.counted(counts)
    const changed = item.revision !== this.saving.revision || item.status !== this.item.status
    if (this.item?.id === id && changed && !this.saving.dirty) this.show(item, {push: false})
  }

  /** What is unsaved goes to the server before another prompt takes its place. */
  async leaving() {
    if ((!this.saving.dirty && !this.saving.flight) || this.saving.stopped) return
    await this.saving.hold()
    await this.saving.flush()
  }

  arrive({item, counts}) {
    this.counted(counts)
    if (item) this.show(item)
    else this.finished(counts)
  }

  show(item, {push = true} = {}) {
    const kept = this.saving.begin(item)
    this.item = item
    this.clock.reset(item.seconds)
    this.editor.text = item.text
    this.paint()
    if (push) remember(item.id)
    scrollTo({top: 0, behavior: 'instant'})
    // A phone's keyboard would hide the prompt before it was read.
    if (matchMedia('(pointer: coarse)').matches) this.view.focus({preventScroll: true})
    else this.editor.focus()
    notice('')
    tell(`Prompt ${item.rank}. ${STATUS[item.status] ?? ''}`)
    if (item.held_by.length) this.taken(item.held_by)
    if (!kept) return
    if (kept.revision === item.revision) {
      this.editor.text = kept.text
      this.saving.change(kept.text)
    } else {
      notice('This browser has another text for this prompt that was never saved.', {
        actions: [['Put it in', () => this.editor.replace(kept.text)]],
      })
    }
  }

  paint() {
    const {item} = this
    const place = el('p', {class: 'place'}, el('span', {}, `Prompt ${item.rank}`),
      item.task && el('span', {class: 'task'}, item.task),
      item.reserve && el('span', {}, 'takes the place of a flagged one'),
      STATUS[item.status] && el('span', {class: `badge ${item.status}`},
        item.flag ? `Flagged: ${item.flag}` : STATUS[item.status], item.unsent ? ', changed' : ''))
    fill(this.view, el('div', {class: 'work'},
      el('section', {class: 'reading', 'aria-label': 'Prompt'},
        el('div', {class: 'row'}, place,
          el('button', {type: 'button', class: 'quiet', 'data-do': 'format', 'aria-pressed': String(isFormatted())},
            'Formatted ', el('kbd', {}, 'm'))),
        item.reason && el('p', {class: 'reason', dir: 'auto'}, `Reason: ${item.reason}`),
        turns(item.turns), draft(item)),
      el('section', {class: 'writing', 'aria-label': 'Answer'},
        el('div', {class: 'row'}, this.editor.tabs, this.state),
        this.editor.node,
        el('div', {class: 'actions'},
          el('button', {type: 'button', class: 'quiet', 'data-do': 'back'}, 'Back ', el('kbd', {}, 'b')),
          el('button', {type: 'button', class: 'quiet', 'data-do': 'undo'}, 'Undo ', el('kbd', {}, 'u')),
          el('button', {type: 'button', class: 'plain', 'data-do': 'skip', id: 'skip'}, 'Skip or flag ', el('kbd', {}, 's')),
          this.submit))))
  }

  format() {
    toggleFormatted()
    if (this.item) this.paint()
  }

  useDraft() {
    if (!this.item?.draft) return
    const had = this.editor.text.trim()
    this.editor.replace(this.item.draft.text)
    if (had) notice('The draft took the place of your text. Ctrl-Z brings it back.')
  }

  /** Submit, skip and undo: one at a time, the button says so. */
  async act(path, body) {
    if (this.busy) return null
    this.busy = true
    this.submit.disabled = true
    try {
      return await post(path, {name: this.place.name, ...body})
    } finally {
      this.busy = false
      this.submit.disabled = false
    }
  }

  async send() {
    if (!this.item || this.busy) return
    if (!this.editor.text.trim()) {
      notice('The answer is empty: write one, or skip the prompt.', {bad: true})
      return this.editor.focus()
    }
    this.saving.change(this.editor.text)
    await this.saving.hold()
    try {
      const reply = await this.act('answer', this.saving.body())
      if (!reply) return
      this.saving.done()
      this.arrive(reply)
    } catch (error) {
      if (error.status === 409) return this.conflict(error, () => this.send())
      // The text goes on being saved as a draft.
      this.saving.flush()
      throw error
    }
  }

  async skip(reason, flag) {
    await this.leaving()
    const reply = await this.act('skip', {id: this.item.id, seconds: this.clock.seconds, reason, flag})
    if (!reply) return
    const {rank} = this.item
    this.arrive(reply)
    notice(flag ? `Prompt ${rank} is flagged as ${flag}; the next of the ranking takes its place.` : `Prompt ${rank} is skipped.`,
      {actions: [['Undo', () => this.undo()]]})
  }

  async undo() {
    await this.leaving()
    const reply = await this.act('undo', {})
    if (!reply) return
    if (!reply.item) return notice('There is nothing to undo.')
    this.arrive(reply)
    notice(`Your last step was undone: prompt ${reply.item.rank} is open again.`)
  }

  /** One step along what the person has done, and beyond it to what is open. */
  async step(by) {
    const trail = await get('trail', {name: this.place.name})
    const at = this.item ? trail.indexOf(this.item.id) : -1
    const to = at < 0 ? (by < 0 ? trail.length - 1 : trail.length) : at + by
    if (to < 0 || (by < 0 && !trail.length)) return notice('This is the first prompt you worked on.')
    if (to < trail.length) return this.open(trail[to])
    await this.next(at < 0 && this.item ? this.item.id : null)
  }

  finished(counts) {
    this.saving.done()
    this.item = null
    remember(null)
    const all = counts.answered >= counts.target
    const title = all ? 'Everything is answered' : 'Nothing is left for you here'
    const why = all ? `All ${counts.target} prompts have their answers. Thank you.`
      : counts.short > 0 && counts.open === 0
        ? `${counts.short} prompts were flagged and nothing is in reserve to take their place yet.`
        : `${counts.open} of the prompts are still open: others are at work on them, or you skipped them.`
    fill(this.view, el('div', {class: 'blank'}, el('h1', {}, title), el('p', {}, why),
      el('p', {class: 'row'},
        el('button', {type: 'button', class: 'primary', 'data-do': 'next'}, 'Look again ', el('kbd', {}, 'n')),
        el('button', {type: 'button', class: 'plain', 'data-do': 'back'}, 'Back to my last answer ', el('kbd', {}, 'b')),
        el('button', {type: 'button', class: 'plain', 'data-do': 'skipped'}, 'What I skipped'))))
    this.view.focus()
    tell(title)
  }

  showSaved(state, error) {
    this.state.textContent = SAVED[state]
    this.state.className = `state ${state}`
    if (state === 'failed') notice(error.message, {bad: true})
  }

  taken(names) {
    notice(`${names.join(' and ')} is at work on this prompt. What you write is kept; both answers are.`, {
      actions: [['Take another', () => this.next()]],
    })
  }

  /** Two windows, two texts: the person decides, and neither is lost meanwhile. */
  conflict(error, then = null) {
    if (!(error instanceof Refused) || !error.page) return notice(error.message, {bad: true})
    const {page} = error
    const mine = this.editor.text
    this.saving.stopped = true
    const decide = (text) => {
      box.close()
      this.editor.text = text
      this.saving.text = text
      this.saving.resume(page.revision)
      if (then && text === mine) then()
    }
    const side = (title, text, label) => el('section', {}, el('h3', {}, title),
      el('div', {class: 'text', dir: 'auto'}, text || '(empty)'),
      el('button', {type: 'button', class: 'plain', onclick: () => decide(text)}, label))
    const box = dialog('This answer was changed in another window', el('div', {class: 'sides'},
      side('Here', mine, 'Keep this one'), side('In the other window', page.text, 'Keep that one')))
  }
}

/** The prompt stands in the address, so that a reload and the browser's Back lead to it. */
function remember(id) {
  const hash = id === null ? '#/' : `#/prompt/${encodeURIComponent(id)}`
  if (location.hash !== hash) history.pushState(null, '', hash)
}
