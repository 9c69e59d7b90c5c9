// Every text is on the server's disk within a second of being typed, and in this browser at once.

import {post} from './api.js'

const WAIT = 400
const RETRY = [1000, 2000, 4000, 8000]

const key = (study, name, id) => `thriftune:text:${study}:${name}:${id}`

/** localStorage that may be full or forbidden: then the server's copy is the only one. */
const local = {
  get(name) {
    try { return JSON.parse(localStorage.getItem(name)) } catch { return null }
  },
  set(name, value) {
    try { localStorage.setItem(name, JSON.stringify(value)) } catch { /* full or forbidden */ }
  },
  remove(name) {
    try { localStorage.removeItem(name) } catch { /* forbidden */ }
  },
}

export class Autosave {
  /**
   * @param {object} place study and name.
   * @param {(state: 'clean'|'waiting'|'saved'|'failed', error?: Error) => void} show
   * @param {(error: Error) => void} conflict the text was changed in another window.
   * @param {(names: string[]) => void} heldBy somebody else was given the prompt meanwhile.
   */
  constructor(place, clock, show, conflict, heldBy) {
    Object.assign(this, {place, clock, show, conflict, heldBy})
    this.id = null
    this.failures = 0
    addEventListener('pagehide', () => this.leave())
    document.addEventListener('visibilitychange', () => { if (document.hidden) this.leave() })
  }

  /** Begin with an item of the server. Returns a text that this browser has and the server lacks, or null. */
  begin(item) {
    clearTimeout(this.timer)
    this.id = item.id
    this.revision = item.revision
    this.text = this.stored = item.text
    this.failures = 0
    this.flight = null
    this.stopped = false
    this.key = key(this.place.study, this.place.name, item.id)
    this.show('clean')
    const kept = local.get(this.key)
    if (!kept || typeof kept.text !== 'string' || kept.text === item.text) {
      local.remove(this.key)
      return null
    }
    return kept
  }

  get dirty() {
    return this.id !== null && this.text !== this.stored
  }

  change(text) {
    if (this.id === null) return
    this.text = text
    local.set(this.key, {text, revision: this.revision})
    if (!this.dirty && !this.flight) return
    this.show('waiting')
    if (!this.timer && !this.flight && !this.stopped) this.timer = setTimeout(() => this.flush(), WAIT)
  }

  body() {
    return {name: this.place.name, id: this.id, text: this.text, seconds: this.clock.seconds, revision: this.revision}
  }

  async flush() {
    clearTimeout(this.timer)
    this.timer = null
    if (this.flight || !this.dirty || this.stopped) return
    const {id, text} = this
    const flight = this.flight = post('draft', this.body())
    try {
      const saved = await flight
      if (this.id !== id || this.flight !== flight) return
      this.flight = null
      this.failures = 0
      this.revision = saved.revision
      this.stored = text
      if (saved.held_by.length) this.heldBy(saved.held_by)
      if (this.dirty) {
        local.set(this.key, {text: this.text, revision: this.revision})
        this.timer = setTimeout(() => this.flush(), WAIT)
      } else {
        local.remove(this.key)
        this.show('saved')
      }
    } catch (error) {
      if (this.id !== id || this.flight !== flight) return
      this.flight = null
      if (error.status === 409) {
        this.stopped = true
        this.conflict(error)
        return
      }
      this.show('failed', error)
      // What the server refuses for good it refuses again; what it cannot do now it may do soon.
      if (error.status === 0 || error.status >= 500) {
        this.timer = setTimeout(() => this.flush(), RETRY[Math.min(this.failures, RETRY.length - 1)])
        this.failures += 1
      }
    }
  }

  /** Wait for what is on its way, and save nothing more by itself: the caller sends the text itself. */
  async hold() {
    try {
      await this.flight // flush, which began it, waits longer than this and notes what was saved
    } catch {
      // The caller's own request tells what is wrong.
    }
    clearTimeout(this.timer)
    this.timer = null
  }

  /** The text is safe with the server as an answer. */
  done() {
    if (this.id !== null) local.remove(this.key)
    this.id = null
  }

  /** The other window's text is known: go on from its revision. */
  resume(revision) {
    this.revision = revision
    this.stored = null
    this.stopped = false
    this.change(this.text)
  }

  /** The tab is hidden or closed: one last save that outlives the page. */
  leave() {
    if (!this.dirty || this.stopped || this.flight) return
    // Browsers refuse longer ones here; this browser has the text anyway.
    if (this.text.length < 15_000) post('draft', this.body(), true).then((saved) => {
      if (this.revision < saved.revision) this.revision = saved.revision
    }, () => {})
  }
}
