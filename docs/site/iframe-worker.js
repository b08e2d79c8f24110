// The search runs in a Worker, which no browser starts from a file. If the site is read from files, this class takes
// the place of Worker: it runs the same script in a hidden frame. The theme waits for this script because of its name,
// and would otherwise load one with this name from another site.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve) => {
        // The script answers with postMessage, which in a frame would send the message to the frame itself.
        frame.prepare = (self) => {
          self.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
        };
        frame.addEventListener("load", () => resolve(frame.contentWindow));
      });
      frame.srcdoc = `<script>frameElement.prepare(self)</script><script src="${new URL(script, location)}"></script>`;
      document.body.append(frame);
    }

    postMessage(data) {
      this.ready.then((self) => self.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
