// The other side of a connection, played by Spark's own classes; and what they compute, as test vectors.
//
//   vectors                                prints `NAME HEX` lines (tests/data/auth-spark.txt)
//   client [PORT APP SETTINGS SIZE,SIZE].. authenticates, then sends RPCs of these sizes and checks that each comes
//                                          back; prints "> SETTINGS: echoed SIZE .." or "> SETTINGS: error EXCEPTION"
//   server [SETTINGS]..                    prints "> port N" for each; answers RPCs with their own bytes until standard
//                                          input ends
//   speed SETTINGS BYTES MIB               prints the GB per CPU second at which the engine's session encrypts messages
//                                          of so many bytes
// SETTINGS is k=v;k=v. The secret comes in the environment variable SECRET.
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.FileRegion;
import io.netty.channel.embedded.EmbeddedChannel;
import java.io.ByteArrayOutputStream;
import java.io.Closeable;
import java.lang.reflect.*;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.channels.WritableByteChannel;
import java.util.*;
import org.apache.spark.network.TransportContext;
import org.apache.spark.network.client.*;
import org.apache.spark.network.crypto.*;
import org.apache.spark.network.sasl.*;
import org.apache.spark.network.server.*;
import org.apache.spark.network.util.*;

public class SparkPeer {
  private static final String CRYPTO = "org.apache.spark.network.crypto.";
  private static final String SASL = "org.apache.spark.network.sasl.";

  public static void main(String[] args) throws Exception {
    switch (args[0]) {
      case "vectors": vectors(); break;
      case "client":
        for (int i = 1; i < args.length; i += 4) client(Integer.parseInt(args[i]), args[i + 1], args[i + 2], args[i + 3]);
        break;
      case "server":
        for (int i = 1; i < args.length; i++) server(args[i]);
        while (System.in.read() >= 0) { }
        break;
      case "speed": speed(args[1], Integer.parseInt(args[2]), Integer.parseInt(args[3])); break;
      default: throw new IllegalArgumentException(args[0]);
    }
    System.out.flush();
    System.exit(0);
  }

  private static TransportConf conf(String settings) {
    Map<String, String> map = new HashMap<>();
    for (String pair : settings.split(";")) {
      if (!pair.isEmpty()) map.put(pair.split("=", 2)[0], pair.split("=", 2)[1]);
    }
    return new TransportConf("shuffle", new MapConfigProvider(map));
  }

  private static SecretKeyHolder secrets(String secret) {
    return new SecretKeyHolder() {
      public String getSaslUser(String app) { return "sparkSaslUser"; }
      public String getSecretKey(String app) { return secret; }
    };
  }

  private static class Echo extends RpcHandler {
    private final StreamManager streams = new OneForOneStreamManager();
    public void receive(TransportClient client, ByteBuffer message, RpcResponseCallback callback) {
      ByteBuffer copy = ByteBuffer.allocate(message.remaining());
      copy.put(message).flip();
      callback.onSuccess(copy);
    }
    public StreamManager getStreamManager() { return streams; }
  }

  private static void client(int port, String app, String settings, String sizes) throws Exception {
    TransportConf conf = conf(settings);
    SecretKeyHolder secrets = secrets(System.getenv("SECRET"));
    TransportClientBootstrap bootstrap = new AuthClientBootstrap(conf, app, secrets);
    try (TransportContext context = new TransportContext(conf, new Echo());
        TransportClientFactory factory = context.createClientFactory(Collections.singletonList(bootstrap));
        TransportClient client = factory.createClient("127.0.0.1", port)) {
      StringBuilder echoed = new StringBuilder("echoed");
      for (String size : sizes.split(",")) {
        byte[] sent = plain(Integer.parseInt(size));
        ByteBuffer back = client.sendRpcSync(ByteBuffer.wrap(sent), 30000);
        if (!back.equals(ByteBuffer.wrap(sent))) throw new IllegalStateException("other bytes came back");
        echoed.append(' ').append(size);
      }
      System.out.println("> " + settings + ": " + echoed);
    } catch (Exception e) {
      System.out.println("> " + settings + ": error " + e.toString().replaceAll("\\s+", " "));
    }
  }

  private static void server(String settings) throws Exception {
    TransportConf conf = conf(settings);
    TransportServerBootstrap bootstrap = new AuthServerBootstrap(conf, secrets(System.getenv("SECRET")));
    TransportServer server =
        new TransportContext(conf, new Echo()).createServer(0, Collections.singletonList(bootstrap));
    System.out.println("> port " + server.getPort());
    System.out.flush();
  }

  // Bytes that repeat late, so that none can stand in for another.
  private static byte[] plain(int size) {
    byte[] bytes = new byte[size];
    for (int i = 0; i < size; i++) bytes[i] = (byte) (i * 31 + i / 251);
    return bytes;
  }

  private static void vectors() throws Exception {
    for (int version = 1; version <= 2; version++) {
      String name = "v" + version;
      String ctr = "spark.network.crypto.authEngineVersion=" + version;
      Object[] sides = handshake(conf(ctr), "engine-" + name);
      Object cipher = call(sides[0], "sessionCipher");
      Object key = call(cipher, "getKey");
      print("engine-" + name + "-key", (byte[]) call(key, "getEncoded"));
      print("engine-" + name + "-client-in", (byte[]) call(cipher, "getInputIv"));
      print("engine-" + name + "-client-out", (byte[]) call(cipher, "getOutputIv"));
      EmbeddedChannel channel = new EmbeddedChannel();
      call(cipher, "addToChannel", channel);
      print("ctr-" + name, concat(sealed(channel, plain(3)), sealed(channel, plain(100)), sealed(channel, plain(64))));
      Object gcm = Class.forName(CRYPTO + "GcmTransportCipher").getConstructors()[0].newInstance(key);
      channel = new EmbeddedChannel();
      call(gcm, "addToChannel", channel);
      // More than one segment once is enough: they are long.
      print("gcm-" + name, concat(sealed(channel, plain(5)), sealed(channel, plain(version == 1 ? 100 : 33000))));
    }
    for (String cipher : new String[] {"3des", "rc4"}) sasl(cipher);
  }

  private static Object[] handshake(TransportConf conf, String name) throws Exception {
    Object[] sides = new Object[2];
    for (int i = 0; i < 2; i++) {
      Constructor<?> engine = Class.forName(CRYPTO + "AuthEngine").getDeclaredConstructors()[0];
      engine.setAccessible(true);
      sides[i] = engine.newInstance("app-1", "s3cret", conf);
    }
    Object challenge = call(sides[0], "challenge");
    Object response = call(sides[1], "response", challenge);
    call(sides[0], "deriveSessionCipher", challenge, response);
    if (name == null) return sides;
    Field key = sides[0].getClass().getDeclaredField("clientPrivateKey");
    key.setAccessible(true);
    print(name + "-private", (byte[]) key.get(sides[0]));
    print(name + "-challenge", encoded(challenge));
    print(name + "-response", encoded(response));
    return sides;
  }

  // One whole exchange between the JDK's two sides, then two blocks from the client.
  private static void sasl(String cipher) throws Exception {
    System.setProperty("com.sun.security.sasl.digest.cipher", cipher);
    Map<String, String> props = new HashMap<>();
    props.put("javax.security.sasl.qop", "auth-conf");
    if (cipher.equals("rc4")) props.put("com.sun.security.sasl.digest.cipher", "rc4");
    SparkSaslServer server = new SparkSaslServer("app-1", secrets("s3cret"), true);
    SparkSaslClient client = new SparkSaslClient("app-1", secrets("s3cret"), true);
    if (cipher.equals("rc4")) {
      // Spark sets no preference: have the JDK's client prefer the other cipher.
      Field inner = SparkSaslClient.class.getDeclaredField("saslClient");
      inner.setAccessible(true);
      Class<?> handler = Class.forName(SASL + "SparkSaslClient$ClientCallbackHandler");
      Constructor<?> made = handler.getDeclaredConstructors()[0];
      made.setAccessible(true);
      Object callbacks = made.getParameterCount() == 1 ? made.newInstance(client) : made.newInstance(client, null);
      inner.set(client, javax.security.sasl.Sasl.createSaslClient(new String[] {"DIGEST-MD5"}, null, null, "default",
          props, (javax.security.auth.callback.CallbackHandler) callbacks));
    }
    byte[] challenge = server.response(client.firstToken());
    byte[] response = client.response(challenge);
    byte[] proof = server.response(response);
    client.response(proof);
    String name = "sasl-" + cipher;
    print(name + "-challenge", challenge);
    print(name + "-response", response);
    print(name + "-proof", proof);
    EmbeddedChannel channel = new EmbeddedChannel();
    Method add = Class.forName(SASL + "SaslEncryption").getDeclaredMethods()[0];
    for (Method method : Class.forName(SASL + "SaslEncryption").getDeclaredMethods()) {
      if (method.getName().equals("addToChannel")) add = method;
    }
    add.setAccessible(true);
    add.invoke(null, channel, client, 65536);
    print(name + "-stream", concat(sealed(channel, plain(7)), sealed(channel, plain(45))));
  }

  private static void speed(String settings, int bytes, int mebibytes) throws Exception {
    EmbeddedChannel channel = new EmbeddedChannel();
    Object[] sides = handshake(conf(settings), null);
    call(call(sides[1], "sessionCipher"), "addToChannel", channel);
    byte[] block = plain(bytes);
    CountingChannel out = new CountingChannel();
    java.lang.management.ThreadMXBean threads = java.lang.management.ManagementFactory.getThreadMXBean();
    for (int round = 0; round < 5; round++) {
      out.bytes = 0;
      long start = threads.getCurrentThreadCpuTime();
      for (long done = 0; done < (long) mebibytes << 20; done += bytes) {
        channel.writeOutbound(Unpooled.wrappedBuffer(block));
        transfer(channel, out);
      }
      double seconds = (threads.getCurrentThreadCpuTime() - start) / 1e9;
      System.out.printf("> encrypt %.3f%n", ((long) mebibytes << 20) / 1e9 / seconds);
    }
  }

  private static class CountingChannel implements WritableByteChannel {
    long bytes;
    public int write(ByteBuffer from) {
      int taken = from.remaining();
      from.position(from.limit());
      bytes += taken;
      return taken;
    }
    public boolean isOpen() { return true; }
    public void close() { }
  }

  private static byte[] sealed(EmbeddedChannel channel, byte[] plain) throws Exception {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    channel.writeOutbound(Unpooled.wrappedBuffer(plain));
    transfer(channel, Channels.newChannel(out));
    return out.toByteArray();
  }

  private static void transfer(EmbeddedChannel channel, WritableByteChannel out) throws Exception {
    FileRegion region;
    while ((region = channel.readOutbound()) != null) {
      while (region.transferred() < region.count()) region.transferTo(out, region.transferred());
      region.release();
    }
  }

  private static byte[] encoded(Object message) throws Exception {
    ByteBuf out = Unpooled.buffer();
    call(message, "encode", out);
    byte[] bytes = new byte[out.readableBytes()];
    out.readBytes(bytes);
    return bytes;
  }

  private static Object call(Object target, String name, Object... arguments) throws Exception {
    for (Class<?> type = target.getClass(); type != null; type = type.getSuperclass()) {
      for (Method method : type.getDeclaredMethods()) {
        if (method.getName().equals(name) && method.getParameterCount() == arguments.length) {
          if (type.getName().startsWith("org.apache")) method.setAccessible(true);
          return method.invoke(target, arguments);
        }
      }
    }
    throw new NoSuchMethodException(name);
  }

  private static byte[] concat(byte[]... parts) throws Exception {
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    for (byte[] part : parts) all.write(part);
    return all.toByteArray();
  }

  private static void print(String name, byte[] bytes) {
    StringBuilder hex = new StringBuilder();
    for (byte b : bytes) hex.append(String.format("%02x", b));
    System.out.println(name + " " + hex);
  }
}
