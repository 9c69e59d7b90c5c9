// The place to write: plain text, with a preview.

import {el, fill} from './dom.js'
import {markdown} from './markdown.js'

export class Editor {
  /** @param {(text: string) => void} changed @param {string} label what is written, for those who do not see it */
  constructor(changed, label = 'Your answer', id = 'text') {
    this.area = el('textarea', {
      id, dir: 'auto', spellcheck: 'true', 'aria-label': label, placeholder: 'Write the answer…',
      autocomplete: 'off', rows: '10',
    })
    this.area.addEventListener('input', () => { this.grow(); changed(this.area.value) })
    this.shown = el('div', {class: 'prose preview', tabindex: '0', 'aria-label': 'Preview', hidden: true})
    this.write = el('button', {type: 'button', 'aria-pressed': 'true', onclick: () => this.preview(false)}, 'Write')
    this.look = el('button', {type: 'button', 'aria-pressed': 'false', onclick: () => this.preview(true)},
      'Preview ', el('kbd', {}, 'p'))
    this.tabs = el('div', {class: 'tabs', role: 'group', 'aria-label': 'Write or preview'}, this.write, this.look)
    this.node = el('div', {class: 'editor'}, this.area, this.shown)
  }

  get text() {
    return this.area.value
  }

  /** Another text from the start; the browser's own undo does not reach behind it. */
  set text(value) {
    this.area.value = value
    this.grow()
  }

  /** Put `text` in place of all there is, so that the browser's undo (Ctrl-Z) brings the old one back. */
  replace(text) {
    this.preview(false)
    this.area.focus()
    this.area.select()
    if (!document.execCommand?.('insertText', false, text)) {
      this.area.setRangeText(text, 0, this.area.value.length, 'end')
      this.area.dispatchEvent(new Event('input'))
    }
    this.grow()
  }

  /** As high as the text, so that the page scrolls and not a box in it. */
  grow() {
    if (CSS.supports('field-sizing', 'content')) return
    const top = scrollY
    this.area.style.height = 'auto'
    this.area.style.height = `${this.area.scrollHeight + 4}px`
    scrollTo({top, behavior: 'instant'})
  }

  get previewing() {
    return !this.shown.hidden
  }

  preview(on) {
    this.shown.hidden = !on
    this.area.hidden = on
    this.write.setAttribute('aria-pressed', String(!on))
    this.look.setAttribute('aria-pressed', String(on))
    if (!on) return this.area.focus()
    fill(this.shown, this.text.trim() ? markdown(this.text) : el('p', {class: 'faint'}, 'Nothing written yet.'))
    this.shown.focus()
  }

  focus() {
    this.preview(false)
    this.area.setSelectionRange(this.area.value.length, this.area.value.length)
  }
}
