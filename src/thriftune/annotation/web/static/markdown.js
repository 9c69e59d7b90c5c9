// Markdown as DOM nodes, for previews. No string is ever parsed as HTML: a tag in a text is shown as that tag.
// What it knows: headings, paragraphs, fenced and indented code, lists, quotes, rules, tables, emphasis, code, links.

import {el} from './dom.js'

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*(\S*)/
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/
const QUOTE = /^ {0,3}> ?/
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)/
const TABLE_LINE = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/
const DEEPEST = 12

/** A fragment with the rendering of `text`. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, '\n').split('\n'), 0)
}

function blocks(lines, depth) {
  const out = document.createDocumentFragment()
  let at = 0
  while (at < lines.length) {
    const line = lines[at]
    let match
    if (!line.trim()) {
      at += 1
    } else if ((match = FENCE.exec(line))) {
      const end = lines.findIndex((l, i) => i > at && l.trim().startsWith(match[1]) && !l.trim().replaceAll(match[1][0], ''))
      const stop = end < 0 ? lines.length : end
      out.append(el('pre', {}, el('code', {}, lines.slice(at + 1, stop).join('\n'))))
      at = stop + 1
    } else if ((match = HEADING.exec(line))) {
      // Below the page's own headings.
      out.append(el(`h${Math.min(match[1].length + 2, 6)}`, {}, inline(match[2])))
      at += 1
    } else if (RULE.test(line)) {
      out.append(el('hr'))
      at += 1
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      let end = at
      while (end < lines.length && QUOTE.test(lines[end])) end += 1
      out.append(el('blockquote', {}, blocks(lines.slice(at, end).map((l) => l.replace(QUOTE, '')), depth + 1)))
      at = end
    } else if (ITEM.test(line) && depth < DEEPEST) {
      at = list(lines, at, depth, out)
    } else if (line.includes('|') && at + 1 < lines.length && lines[at + 1].includes('-') && TABLE_LINE.test(lines[at + 1])) {
      at = table(lines, at, out)
    } else if (/^ {4}/.test(line)) {
      let end = at
      while (end < lines.length && (/^ {4}/.test(lines[end]) || !lines[end].trim())) end += 1
      out.append(el('pre', {}, el('code', {}, lines.slice(at, end).map((l) => l.slice(4)).join('\n').trimEnd())))
      at = end
    } else {
      let end = at + 1
      while (end < lines.length && lines[end].trim() && !starts(lines[end])) end += 1
      out.append(el('p', {dir: 'auto'}, inline(lines.slice(at, end).join('\n'))))
      at = end
    }
  }
  return out
}

const starts = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line)

function list(lines, start, depth, out) {
  const first = ITEM.exec(lines[start])
  const ordered = /\d/.test(first[2])
  const items = []
  let at = start
  let loose = false
  while (at < lines.length) {
    const match = ITEM.exec(lines[at])
    if (!match || /\d/.test(match[2]) !== ordered || RULE.test(lines[at])) break
    const width = match[1].length + match[2].length + Math.min(Math.max(match[3].length, 1), 4)
    const own = [lines[at].slice(width)]
    at += 1
    while (at < lines.length) {
      const blank = !lines[at].trim()
      const inside = lines[at].startsWith(' '.repeat(width)) || lines[at].startsWith('\t')
      if (blank && !(at + 1 < lines.length && /^( {2}|\t)/.test(lines[at + 1]))) break
      if (!blank && !inside && starts(lines[at])) break
      if (!blank && !inside && own.at(-1) === '') break
      own.push(blank ? '' : inside ? lines[at].replace(/^\t/, ' '.repeat(width)).slice(width) : lines[at])
      at += 1
    }
    items.push(own)
    if (at + 1 < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1])) {
      loose = true
      at += 1
    }
  }
  const node = el(ordered ? 'ol' : 'ul', ordered && parseInt(first[2], 10) !== 1 ? {start: parseInt(first[2], 10)} : {})
  for (const own of items) {
    const inner = blocks(own, depth + 1)
    const only = inner.firstElementChild
    // A tight list's items are lines, not paragraphs.
    if (!loose && only?.tagName === 'P') only.replaceWith(...only.childNodes)
    node.append(el('li', {dir: 'auto'}, inner))
  }
  out.append(node)
  return at
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, '').split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'))
}

function table(lines, start, out) {
  let end = start + 2
  while (end < lines.length && lines[end].trim() && lines[end].includes('|')) end += 1
  const row = (tag) => (line) => el('tr', {}, cells(line).map((cell) => el(tag, {dir: 'auto'}, inline(cell))))
  out.append(el('div', {class: 'scroll'}, el('table', {},
    el('thead', {}, row('th')(lines[start])), el('tbody', {}, lines.slice(start + 2, end).map(row('td'))))))
  return end
}

// One alternative at a time, from left to right; what each spans is bounded, so that no text takes long.
const INLINE = new RegExp([
  '(?<ticks>`+)(?!`)(?<code>[^]{0,2000}?[^`])\\k<ticks>(?!`)',
  '!?\\[(?<label>[^\\]\\n]{0,500})\\]\\((?<target>[^()\\s]{1,1000}(?:\\([^()\\s]{0,200}\\))?)\\)',
  '<?(?<bare>https?:\\/\\/[^\\s<>"\']{1,1000}[^\\s<>"\'.,;:!?)\\]])>?',
  '(?<two>\\*\\*|__)(?=\\S)(?<strong>[^\\n]{0,1000}?\\S)\\k<two>',
  '(?<![\\w*])(?<one>[*_])(?=[^\\s*_])(?<em>[^\\n]{0,1000}?[^\\s*_])\\k<one>(?!\\w)',
  '~~(?=\\S)(?<struck>[^\\n]{0,1000}?\\S)~~',
  '\\\\(?<escaped>[!-/:-@[-`{-~])',
  '(?<hard> {2,}|\\\\)\\n',
].join('|'), 'g')

function inline(text, depth = 0) {
  const out = document.createDocumentFragment()
  if (depth > DEEPEST) {
    out.append(text)
    return out
  }
  let last = 0
  for (const match of text.matchAll(INLINE)) {
    const {code, label, target, bare, strong, em, struck, escaped, hard} = match.groups
    out.append(text.slice(last, match.index))
    last = match.index + match[0].length
    if (code !== undefined) out.append(el('code', {}, code.replace(/^ (.*\S.*) $/s, '$1')))
    else if (target !== undefined) out.append(link(target, label ? inline(label, depth + 1) : target))
    else if (bare !== undefined) out.append(link(bare, bare))
    else if (strong !== undefined) out.append(el('strong', {}, inline(strong, depth + 1)))
    else if (em !== undefined) out.append(el('em', {}, inline(em, depth + 1)))
    else if (struck !== undefined) out.append(el('s', {}, inline(struck, depth + 1)))
    else if (escaped !== undefined) out.append(escaped)
    else if (hard !== undefined) out.append(el('br'))
  }
  out.append(text.slice(last))
  return out
}

function link(address, label) {
  // Only addresses that cannot run anything; pictures are not fetched, which would tell their owner who reads.
  if (!/^(https?:|mailto:)/i.test(address)) return el('span', {}, label, ` (${address})`)
  return el('a', {href: address, target: '_blank', rel: 'noopener noreferrer nofollow'}, label)
}
