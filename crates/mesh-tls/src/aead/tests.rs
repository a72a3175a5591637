//! The two libraries against one another.

use super::choice::Trial;
use super::*;
use std::time::Duration;

const LIBRARIES: [AeadLibrary; 2] = [AeadLibrary::Ring, AeadLibrary::AwsLc];

#[test]
fn what_one_library_seals_the_other_opens() {
    for (cipher, key) in [(Cipher::Aes256, &[3; 32][..]), (Cipher::Aes128, &[3; 16])] {
        for (sealer, opener) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
            let sealer = Key::new(LIBRARIES[sealer], cipher, key).unwrap();
            let opener = Key::new(LIBRARIES[opener], cipher, key).unwrap();
            // Room before the record, as when earlier records were shorter opened than sealed.
            let mut buffer = vec![0; 22];
            buffer.extend_from_slice(&[9; 1000]);
            let tag = sealer.seal([1; 12], b"aad", &mut buffer[22..]).unwrap();
            buffer.extend_from_slice(&tag);
            let length = opener.open([1; 12], b"aad", &mut buffer, 22..).unwrap();
            assert_eq!(buffer[..length], [9; 1000]);
            assert_eq!(
                opener.open([1; 12], b"add", &mut buffer, 22..),
                Err(Refused)
            );
        }
    }
    for library in LIBRARIES {
        assert!(Key::new(library, Cipher::Aes256, &[0; 16]).is_err());
    }
}

#[test]
fn the_trial_tries_both_and_a_setting_overrules_it() {
    let trial = Trial::run();
    assert!(trial.ring < Duration::MAX && trial.aws_lc < Duration::MAX);
    let millis = Duration::from_millis;
    let of = |ring, aws_lc| Trial {
        ring: millis(ring),
        aws_lc: millis(aws_lc),
    };
    assert_eq!(of(1, 2).winner(), AeadLibrary::Ring);
    assert_eq!(of(2, 1).winner(), AeadLibrary::AwsLc);
    assert_eq!(of(1, 1).winner(), AeadLibrary::AwsLc);
    assert_eq!("auto".parse(), Ok(AeadChoice::Auto));
    for library in LIBRARIES {
        let fixed = library.to_string().parse::<AeadChoice>().unwrap();
        assert_eq!(fixed, AeadChoice::Fixed(library));
        assert_eq!(fixed.decide(), library);
    }
    assert!("openssl".parse::<AeadChoice>().is_err());
}
