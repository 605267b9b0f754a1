// Server-sent events by the HTML standard; a last event without its blank line counts as well.

export class EventReader {
  constructor(onData, onComment) {
    this.onData = onData;
    this.onComment = onComment;
    this.rest = "";
    this.data = [];
  }
  feed(text) {
    this.rest += text;
    for (let end; (end = /\r\n|\n|\r/.exec(this.rest)); ) {
      if (end[0] === "\r" && end.index === this.rest.length - 1) return; // may be half of "\r\n"
      const line = this.rest.slice(0, end.index);
      this.rest = this.rest.slice(end.index + end[0].length);
      this.line(line);
    }
  }
  end() {
    for (const line of [this.rest.replace(/\r$/, ""), ""]) this.line(line);
    this.rest = "";
  }
  line(line) {
    if (line === "") {
      const data = this.data.splice(0).join("\n");
      if (data) this.onData(data);
    } else if (line.startsWith(":")) this.onComment(line.slice(1).trim());
    else if (line.startsWith("data:")) this.data.push(line.slice(5).replace(/^ /, ""));
  }
}
