// Review: what several people wrote side by side; one is taken, or a better one is written from them.

import {get, post} from './api.js'
import {duration, el, fill, notice, percent, tell} from './dom.js'
import {Editor} from './editor.js'
import {text, turns} from './prompt.js'

export class Review {
  constructor(place, view) {
    Object.assign(this, {place, view})
    this.current = null
  }

  /** The list, and the agreement over all of it. */
  async list() {
    this.current = null
    const {items, agreement} = await get('reviews')
    this.items = items
    if (location.hash !== '#/review') history.pushState(null, '', '#/review')
    const figure = (value, what) => el('div', {class: 'figure'}, el('strong', {}, value), el('span', {}, what))
    const score = (value) => (value === null ? '–' : value.toFixed(2))
    const open = items.filter((item) => !item.decided)
    fill(this.view, el('div', {class: 'review'},
      el('div', {class: 'row'}, el('h1', {}, 'Review'), el('span', {class: 'gap'}),
        el('button', {type: 'button', class: 'plain', 'data-do': 'work'}, 'Back to work ', el('kbd', {}, 'w'))),
      el('p', {class: 'lead'}, items.length
        ? `${open.length} of ${items.length} prompts that several people answered or somebody flagged are undecided. Until you decide, the latest answer counts.`
        : 'Nothing to review: no prompt has several answers, and none is flagged.'),
      agreement.prompts > 0 && el('section', {'aria-label': 'Agreement'}, el('div', {class: 'figures'},
        figure(agreement.prompts, 'prompts with several answers'),
        figure(percent(agreement.exact), 'of pairs of answers are the same'),
        figure(score(agreement.overlap), 'mean overlap of their words (F1)'),
        figure(score(agreement.chance), 'between different prompts, by chance'),
        figure(score(agreement.alpha), 'agreement beyond chance (α): 0 chance, 1 full')),
      agreement.pairs.length > 1 && el('details', {}, el('summary', {}, 'By pair of people'),
        el('table', {class: 'people'}, el('tbody', {}, agreement.pairs.map((pair) => el('tr', {},
          el('th', {scope: 'row'}, el('bdi', {}, pair.names[0]), ' and ', el('bdi', {}, pair.names[1])), el('td', {class: 'n'}, `${pair.prompts} prompts`),
          el('td', {class: 'n'}, score(pair.overlap)))))))),
      el('ol', {class: 'found'}, [...open, ...items.filter((item) => item.decided)].map((item) => el('li', {},
        el('button', {type: 'button', class: 'hit', onclick: () => this.open(item.id).catch(complain)},
          el('span', {class: 'rank'}, item.rank), el('span', {class: 'snippet', dir: 'auto'}, item.snippet || '(empty)'),
          el('span', {class: 'badge'}, [item.answers > 0 && `${item.answers} ${item.answers === 1 ? 'answer' : 'answers'}`,
            item.likeness !== null && `${percent(item.likeness)} alike`, item.flags > 0 && 'flagged'].filter(Boolean).join(' · ')),
          item.decided && el('span', {class: 'badge final'}, 'Decided by ', el('bdi', {}, item.decided))))))))
    this.view.querySelector('.hit')?.focus()
    tell('Review')
  }

  async open(id) {
    this.paint(await post('sides', {name: this.place.name, id}))
  }

  paint(item) {
    this.current = item
    const {decision} = item
    this.editor = new Editor(() => { take.disabled = !this.editor.text.trim() }, 'The answer that counts')
    const take = el('button', {type: 'button', class: 'primary', id: 'decide', 'data-do': 'submit'},
      decision ? 'Change the decision ' : 'This one counts ', el('kbd', {}, 'Ctrl ↵'))
    take.disabled = !decision
    const put = (chosen) => { this.editor.replace(chosen) }
    const join = (chosen) => { this.editor.replace([this.editor.text.trim(), chosen].filter(Boolean).join('\n\n')) }
    fill(this.view, el('div', {class: 'review'},
      el('div', {class: 'row'}, el('p', {class: 'place'}, el('span', {}, `Prompt ${item.rank}`), item.task && el('span', {class: 'task'}, item.task)),
        el('span', {class: 'gap'}), el('button', {type: 'button', class: 'plain', 'data-do': 'review'}, 'All reviews ', el('kbd', {}, 'r'))),
      el('section', {class: 'asked', 'aria-label': 'Prompt'}, turns(item.turns)),
      item.passes.map((pass) => el('p', {class: 'reason'}, el('bdi', {}, pass.name), ` ${pass.flag ? `flagged it as ${pass.flag}` : 'skipped it'}`,
        pass.reason && [': ', el('bdi', {}, pass.reason)])),
      item.passes.some((pass) => pass.flag) && el('p', {}, el('button', {type: 'button', class: 'plain', onclick: () => this.reopen('flags')},
        'It can be answered: take the flags off')),
      el('div', {class: 'sides'}, item.answers.map((answer, at) => el('section', {class: 'side', 'aria-label': `Answer ${at + 1}`},
        el('header', {}, el('h3', {}, el('bdi', {}, answer.name || 'Imported')), el('small', {}, answer.seconds ? duration(answer.seconds) : '')),
        text(answer.text),
        el('p', {class: 'row'},
          el('button', {type: 'button', class: 'plain take', 'data-take': at, onclick: () => this.decide(answer.text)}, 'Take it ', el('kbd', {}, at + 1)),
          el('button', {type: 'button', class: 'quiet', onclick: () => put(answer.text)}, 'Edit it'),
          el('button', {type: 'button', class: 'quiet', onclick: () => join(answer.text)}, 'Add it below'))))),
      el('section', {class: 'writing', 'aria-label': 'Decision'},
        el('h2', {}, item.answers.length > 1 ? 'Or write the one that counts' : 'The answer that counts'),
        el('div', {class: 'row'}, this.editor.tabs, decision && el('p', {class: 'state saved'}, 'Decided by ', el('bdi', {}, decision.name))),
        this.editor.node,
        el('div', {class: 'actions'},
          decision && el('button', {type: 'button', class: 'quiet', onclick: () => this.reopen('decision')}, 'Take the decision back'),
          el('span', {class: 'gap'}), take))))
    this.editor.text = decision?.text ?? ''
    this.view.focus()
    scrollTo({top: 0, behavior: 'instant'})
    tell(`Review of prompt ${item.rank}, ${item.answers.length} answers`)
  }

  /** Decide, and on to the next undecided prompt. */
  async decide(answer) {
    const {id, rank, decision} = this.current
    try {
      await post('decide', {name: this.place.name, id, text: answer, seen: decision?.row ?? null})
    } catch (error) {
      return complain(error)
    }
    const {items} = await get('reviews')
    const left = items.filter((item) => !item.decided && item.answers > 1)
    const next = left.find((item) => item.rank > rank) ?? left[0]
    await (next ? this.open(next.id) : this.list()).catch(complain)
    notice(`Prompt ${rank} is decided.`, {actions: [['Look at it again', () => this.open(id).catch(complain)]]})
  }

  submit() {
    if (this.current && this.editor.text.trim()) this.decide(this.editor.text)
  }

  /** A digit takes that answer. */
  take(number) {
    this.view.querySelector(`[data-take="${number - 1}"]`)?.click()
  }

  reopen(what) {
    post('reopen', {name: this.place.name, id: this.current.id, what}).then((item) => this.paint(item), complain)
  }
}

const complain = (error) => notice(error.message, {bad: true})
