"""From queries and a gallery to ranked ids: `base` says what a retriever is, `index` searches, `dense` embeds."""
