// How far the work is: done, left, pace, hours to go, by person.

import {get} from './api.js'
import {byId, dialog, duration, el, notice} from './dom.js'

/** The bar at the top. */
export function meter(counts) {
  const share = counts.target ? counts.answered / counts.target : 0
  const track = byId('track')
  track.setAttribute('aria-valuemax', counts.target)
  track.setAttribute('aria-valuenow', counts.answered)
  byId('fill').style.width = `${share * 100}%`
  byId('counts').textContent = `${counts.answered} of ${counts.target}`
}

export async function standing() {
  let all
  try {
    all = await get('standing')
  } catch (error) {
    return notice(error.message, {bad: true})
  }
  meter(all)
  const figure = (value, what) => el('div', {class: 'figure'}, el('strong', {}, value), el('span', {}, what))
  const hours = all.hours_left === null ? '–' : duration(all.hours_left * 3600)
  dialog('Progress',
    el('div', {class: 'figures'},
      figure(`${all.answered} of ${all.target}`, 'prompts answered'),
      figure(all.missing, all.overlap > 1 ? `answers left (${all.overlap} a prompt)` : 'answers left'),
      figure(hours, 'of work left'),
      figure(duration(all.seconds), 'an answer, idle time excluded'),
      figure(all.last_hour, 'answers in the last hour'),
      figure(all.flagged, all.reserve || !all.short ? `flagged, ${all.reserve} in reserve` : 'flagged, none in reserve')),
    all.people.length ? el('div', {class: 'scroll'}, el('table', {class: 'people'},
      el('thead', {}, el('tr', {}, ['Who', 'Answers', 'Last hour', 'Each', 'Time', 'Skipped', 'Flagged'].map((title, at) =>
        el('th', {scope: 'col', class: at ? 'n' : ''}, title)))),
      el('tbody', {}, all.people.map((person) => el('tr', {}, el('th', {scope: 'row'}, el('bdi', {}, person.name || '(imported)')),
        [person.answers, person.last_hour, duration(person.seconds), duration(person.spent), person.skipped, person.flagged]
          .map((value) => el('td', {class: 'n'}, value))))))) : el('p', {class: 'faint'}, 'Nobody has answered yet.'))
}
