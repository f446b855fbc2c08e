// A store, or a part of one, some of whose methods are a test's own.

export function overriding<Kind extends object>(store: Kind, own: Partial<NoInfer<Kind>>): Kind {
  return new Proxy(store, {
    get(target, name) {
      const value = Reflect.get(own, name) ?? Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
