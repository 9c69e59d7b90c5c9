// Time spent on a prompt. Reading leaves no traces, so a pause counts, but no longer than a minute of it.

const PAUSE = 60_000

export class Clock {
  constructor() {
    this.spent = 0
    this.last = performance.now()
    this.running = false
    const seen = () => this.touch()
    for (const sign of ['keydown', 'pointerdown', 'pointermove', 'wheel', 'input', 'focus']) {
      addEventListener(sign, seen, {passive: true, capture: true})
    }
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.stop()
      else this.start()
    })
  }

  /** Begin with another prompt, on which `seconds` were spent before. */
  reset(seconds) {
    this.spent = seconds * 1000
    this.running = false
    this.start()
  }

  touch() {
    const now = performance.now()
    if (this.running) this.spent += Math.min(now - this.last, PAUSE)
    this.last = now
  }

  start() {
    this.last = performance.now()
    this.running = !document.hidden
  }

  stop() {
    this.touch()
    this.running = false
  }

  /** Seconds so far. */
  get seconds() {
    const more = this.running ? Math.min(performance.now() - this.last, PAUSE) : 0
    return Math.round((this.spent + more) / 100) / 10
  }
}
