// Talking to the server.

/** A reply that is no success. `status` 0: the server was not reached. */
export class Refused extends Error {
  constructor(status, message, page = null) {
    super(message)
    this.status = status
    this.page = page
  }
}

async function reply(request) {
  let response
  try {
    response = await request
  } catch {
    throw new Refused(0, 'The server does not answer. Is thriftune annotate still running?')
  }
  let body = null
  try {
    body = await response.json()
  } catch {
    // Not JSON: the guard's one-line refusals.
  }
  if (response.ok) return body
  const told = {401: 'This browser is not let in any more. Open the address with the token again.',
    413: 'This text is too long to be saved.'}[response.status]
  throw new Refused(response.status, told ?? body?.error ?? `The server refused this (${response.status}).`, body?.page)
}

const options = {cache: 'no-store', credentials: 'same-origin'}

export const get = (path, query = {}) => {
  const words = new URLSearchParams(query).toString()
  return reply(fetch(`/api/${path}${words ? `?${words}` : ''}`, options))
}

export const post = (path, body, keepalive = false) =>
  reply(fetch(`/api/${path}`, {
    ...options, keepalive, method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body),
  }))
